from __future__ import annotations

import json
import math
from typing import Any

import pytest

from verifix.errors import InvalidType, InvalidValue
from verifix.train import TrainSettings


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"eps": -0.1}, "eps = -0.1: must be finite and at least 0"),
            ({"eps": math.nan}, "eps = nan: must be finite"),
            ({"norm": "l3"}, "norm = 'l3': choose one of linf, l2, l1"),
            ({"box": (1, 0)}, "box"),
            ({"method": "caps"}, "method = 'caps': choose one of ibp"),
            ({"method": "none"}, "eps = 0.1: method none trains without perturbations"),
            ({"epochs": 0}, "epochs = 0: must be at least 1"),
            ({"batch": 0}, "batch = 0: must be at least 1"),
            ({"eps_schedule": "steep"}, "eps_schedule = 'steep': choose one of constant, linear, smoothed"),
            ({"eps_start": 0.2}, "eps_start = 0.2: must be at most eps = 0.1"),
            ({"eps_ramp": 21}, "eps_ramp = 21.0: must be at most epochs = 20"),
            ({"eps_ramp": 0}, "eps_ramp = 0: must be finite and above 0"),
            ({"optimiser": "rmsprop"}, "optimiser = 'rmsprop': choose one of adam, sgd"),
            ({"lr": 0}, "lr = 0: must be finite and above 0"),
            ({"lr": math.inf}, "lr = inf: must be finite and above 0"),
            ({"lr_schedule": "warm"}, "lr_schedule = 'warm': choose one of constant, step, multistep, cosine"),
            ({"lr_schedule": "multistep"}, "lr_milestones = .*: lr_schedule multistep needs at least one epoch"),
            ({"lr_every": 0}, "lr_every = 0: must be at least 1"),
            ({"lr_factor": -1}, "lr_factor = -1: must be finite and above 0"),
            ({"momentum": 1.0}, "momentum = 1.0: must be at least 0 and below 1"),
            ({"weight_decay": -1}, "weight_decay = -1: must be finite and at least 0"),
            ({"clip": 0}, "clip = 0: must be finite and above 0"),
            ({"validation": -1}, "validation = -1: must be finite and at least 0"),
            ({"validation": 1.5}, "validation = 1.5: give a fraction below 1 or a number of examples"),
            ({"validation_limit": 0}, "validation_limit = 0: must be at least 1"),
            ({"validation_every": 0}, "validation_every = 0: must be at least 1"),
            ({"patience": 0}, "patience = 0: must be at least 1"),
            ({"patience": 3, "validation": 0}, "patience = 3: needs validation examples"),
            ({"seed": -1}, "seed = -1: must be at least 0"),
        ],
    )
    def test_values(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(InvalidValue, match=f"^{message}"):
            TrainSettings(**{"eps": 0.1, **changes})

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"eps": "0.1"}, "eps is a str: pass a number"),
            ({"eps": True}, "eps is a bool: pass a number"),
            ({"epochs": 2.0}, "epochs is a float: pass a whole number"),
            ({"box": 1}, "box is a int: pass a pair of numbers"),
            ({"method": 3}, "method is a int: pass a name"),
            ({"lr_milestones": 3}, "lr_milestones is a int: pass the epochs"),
            ({"lr_milestones": (0.5,)}, "lr_milestones is a float: pass a whole number"),
        ],
    )
    def test_types(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(InvalidType, match=f"^{message}"):
            TrainSettings(**{"eps": 0.1, **changes})

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"method": "gaussian", "eps": 0.1},
                "eps = 0.1: method gaussian trains under noise of sigma: leave eps out",
            ),
            ({"method": "adre-adv", "eps": 0.1}, "eps = 0.1: the radius of the attack of adre-adv is attack_eps"),
            ({"method": "gaussian", "sigma": None}, "sigma = None: method gaussian needs the standard deviation"),
            ({"method": "adre", "sigma": 0}, "sigma = 0: must be finite and above 0"),
            ({"method": "adre", "sigma": math.inf}, "sigma = inf: must be finite and above 0"),
            ({"method": "cap"}, "sigma = 0.5: method cap has no use for it: leave it out"),
            ({"method": "none"}, "sigma = 0.5: method none has no use for it"),
            ({"method": "cap", "sigma": None, "noises": 2}, "noises = 2: method cap has no use for it"),
            ({"method": "gaussian", "noises": 0}, "noises = 0: must be at least 1"),
            ({"method": "gaussian", "validation_noises": 0}, "validation_noises = 0: must be at least 1"),
            (
                {"method": "none", "sigma": None, "validation_noises": 9},
                "validation_noises = 9: method none has no use",
            ),
            ({"method": "gaussian", "estimator": "median:5"}, "estimator = median:5: method gaussian has nothing to"),
            ({"method": "gaussian", "adre_weight": 0.1}, "adre_weight = 0.1: method gaussian has no use for it"),
            ({"method": "smoothadv", "probability_floor": 0.1}, "probability_floor = 0.1: method smoothadv has no use"),
            ({"method": "adre", "adre_weight": -1}, "adre_weight = -1: must be finite and at least 0"),
            ({"method": "adre", "probability_floor": 0}, "probability_floor = 0: must be finite and above 0"),
            ({"method": "adre", "probability_floor": 1}, "probability_floor = 1.0: must be above 0 and below 1"),
            ({"method": "gaussian", "attack_eps": 0.5}, "attack_eps = 0.5: method gaussian has no use for it"),
            ({"method": "adre", "attack_steps": 2}, "attack_steps = 2: method adre has no use for it"),
            ({"method": "adre", "attack_step": 0.1}, "attack_step = 0.1: method adre has no use for it"),
            ({"method": "adre", "attack_warmup": 0}, "attack_warmup = 0: method adre has no use for it"),
            ({"method": "smoothadv"}, "attack_eps = None: method smoothadv needs the l2 radius of its attack"),
            ({"method": "adre-adv", "attack_eps": 0}, "attack_eps = 0: must be finite and above 0"),
            ({"method": "adre-adv", "attack_eps": 1, "attack_steps": 0}, "attack_steps = 0: must be at least 1"),
            ({"method": "adre-adv", "attack_eps": 1, "attack_step": 0}, "attack_step = 0: must be finite and above 0"),
            (
                {"method": "adre-adv", "attack_eps": 1, "attack_warmup": 21},
                "attack_warmup = 21.0: must be at most epochs",
            ),
        ],
    )
    def test_smoothing(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(InvalidValue, match=f"^{message}"):
            TrainSettings(**{"sigma": 0.5, **changes})

    def test_noise_that_depends_on_the_input(self) -> None:
        with pytest.raises(InvalidType, match=r"^sigma is a function: pass a number"):
            TrainSettings(method="gaussian", sigma=lambda x: 0.5)  # type: ignore[arg-type]

    def test_a_name_that_is_no_setting(self) -> None:
        with pytest.raises(InvalidValue, match="settings = epoch: is no setting; these are eps, norm, "):
            TrainSettings.from_json({"epoch": 3})


class TestJson:
    def test_there_and_back(self) -> None:
        settings = TrainSettings(
            eps=0.1, norm="l2", box=(0, 1), lr_schedule="multistep", lr_milestones=(3, 5), clip=1, patience=2
        )
        assert TrainSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings

    @pytest.mark.parametrize("method", ["gaussian", "adre", "adre-adv", "smoothadv"])
    def test_smoothing_there_and_back(self, method: str) -> None:
        attack = {"attack_eps": 0.5, "attack_steps": 4} if method in ("adre-adv", "smoothadv") else {}
        settings = TrainSettings(method=method, sigma=0.25, **attack)  # type: ignore[arg-type]
        assert TrainSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings
        assert settings.validation_noises == 16
        assert settings.noises == (1 if method == "gaussian" else 8)
        assert settings.adre_weight == (0.1 if method.startswith("adre") else None)
        assert settings.attack_step == (0.25 if attack else None)
        assert (settings.methods(), settings.exact_methods) == ((), ())

    def test_spellings_of_a_norm_are_one_setting(self) -> None:
        assert TrainSettings(eps=0.1, norm="inf") == TrainSettings(eps=0.1)  # type: ignore[arg-type]


class TestSchedule:
    def test_eps_is_reached_after_the_ramp_and_not_before(self) -> None:
        settings = TrainSettings(eps=0.1, epochs=9, eps_start=0.02, eps_ramp=4)
        assert [settings.reached(epoch) for epoch in (3, 3.99, 4, 9)] == [False, False, True, True]
        assert (settings.eps_at(0), settings.eps_at(4)) == (0.02, 0.1)
        assert TrainSettings(eps=0.1, eps_schedule="constant").reached(0)

    def test_streams_differ_by_purpose_seed_and_position(self) -> None:
        a, b = TrainSettings(eps=0.1), TrainSettings(eps=0.1, seed=1)
        seeds = [of.stream(*args) for of in (a, b) for args in (("order", 0), ("order", 1), ("projections", 0, 1))]
        assert len(set(seeds)) == 6
        assert all(0 <= seed < 2**63 for seed in seeds)
        assert a.stream("order", 3) == TrainSettings(eps=0.1).stream("order", 3)
