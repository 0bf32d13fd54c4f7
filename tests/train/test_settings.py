from __future__ import annotations

import json
import math
from typing import Any

import pytest

from verifix.bounds import NAMED, parse_method
from verifix.errors import InvalidType, InvalidValue
from verifix.train import TrainSettings

BETAS = ((1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (1.0, 0.5))


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"eps": -0.1}, "eps = -0.1: must be finite and at least 0"),
            ({"eps": math.nan}, "eps = nan: must be finite"),
            ({"norm": "l3"}, "norm = 'l3': choose one of linf, l2, l1"),
            ({"box": (1, 0)}, "box"),
            ({"method": "caps"}, "method = 'caps': choose one of ibp"),
            (
                {"method": "caps"},
                ".* by itself, one of none, gaussian, adre, adre-adv, smoothadv, fgsm, pgd, msd, worst, ",
            ),
            ({"method": "ibp+pgd"}, "method = 'pgd': .* by itself, one of .*pgd"),
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
            ({"beta": 0.5}, "beta is a float: pass a pair of numbers"),
            ({"beta": (1, 0, 1)}, "beta is a tuple: pass a pair of numbers"),
            ({"kappa": ("1", 0)}, "kappa is a tuple: pass a pair of numbers"),
            ({"kappa": (True, 0)}, "kappa is a tuple: pass a pair of numbers"),
            ({"l1": None}, "l1 is a NoneType: pass a number"),
            ({"eps_test": "0.1"}, "eps_test is a str: pass a number"),
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
            ({"beta": (1, 1.5)}, "beta = 1 1.5: both, at the start and at the end, must lie within [0, 1]"),
            ({"beta": (-0.1, 1)}, "beta = -0.1 1: both"),
            ({"kappa": (math.nan, 1)}, "kappa = nan 1: both"),
            ({"kappa": (0, 2)}, "kappa = 0 2: both"),
            ({"method": "ibp", "beta": (1, 0)}, "beta = (1.0, 0.0): mixes a bound with that of ibp"),
            ({"method": "interval:constant", "beta": (1, 0)}, "beta = (1.0, 0.0): mixes a bound with that of interval"),
            ({"method": "cap+ibp", "beta": (1, 0)}, "beta = (1.0, 0.0): method cap+ibp takes the best of several"),
            (
                {"eps_test": 0.2},
                "eps_test = 0.2: must be at most eps = 0.1, which training is for: train with a larger",
            ),
            ({"eps_test": -1}, "eps_test = -1: must be finite and at least 0"),
            ({"l1": -1e-6}, "l1 = -1e-06: must be finite and at least 0"),
            ({"l1": math.inf}, "l1 = inf: must be finite and at least 0"),
            ({"eps_warmup": -1}, "eps_warmup = -1: must be finite and at least 0"),
            ({"eps_warmup": 20}, "eps_warmup = 20.0: must be below epochs = 20, so that eps is reached"),
            ({"eps_warmup": 20, "eps_schedule": "constant"}, "eps_warmup = 20.0: must be below epochs = 20"),
            (
                {"eps_warmup": 11, "eps_ramp": 10},
                "eps_ramp = 10.0: must be at most epochs = 20 less the 11 of eps_warm",
            ),
        ],
        ids=str,
    )
    def test_certified_training(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(InvalidValue) as caught:
            TrainSettings(**{"eps": 0.1, "method": "crown-ibp", **changes})
        assert str(caught.value).startswith(message)

    @pytest.mark.parametrize("field", ["beta", "kappa", "eps_test", "eps_warmup", "l1"])
    @pytest.mark.parametrize(
        "how",
        [
            {"method": "none"},
            {"method": "gaussian", "sigma": 0.5},
            {"method": "smoothadv", "sigma": 0.5, "attack_eps": 0.5},
            {"method": "pgd", "eps": 0.1},
            {"method": "msd", "union": "linf:0.3,l2:1"},
        ],
        ids=lambda how: how["method"],
    )
    def test_certified_training_alone_has_use_for(self, field: str, how: dict[str, Any]) -> None:
        given = {"beta": (1.0, 0.0), "kappa": (0.0, 0.5), "eps_test": 0.05, "eps_warmup": 1.0, "l1": 1e-5}[field]
        with pytest.raises(InvalidValue) as caught:
            TrainSettings(**how, **{field: given})
        assert str(caught.value).startswith(
            f"{field} = {given}: method {how['method']} has no use for it: leave it out"
        )

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

    def test_certified_training_there_and_back(self) -> None:
        settings = TrainSettings(
            eps=0.2, method="crown-ibp", beta=[1, 0], kappa=(1, 0.5), eps_test=0.1, eps_warmup=2, l1=1e-5
        )  # type: ignore[arg-type]
        assert TrainSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings
        assert (settings.beta, settings.eps_start) == ((1.0, 0.0), 0.0)

    def test_without_the_fields_of_certified_training(self) -> None:
        """As written before there were any."""
        for how in (
            {"eps": 0.1},
            {"method": "none"},
            {"method": "gaussian", "sigma": 0.5},
            {"method": "pgd", "eps": 0.1},
        ):
            new = TrainSettings.from_json(how)
            names = ("beta", "kappa", "eps_test", "eps_warmup", "l1")
            old = {name: value for name, value in new.to_json().items() if name not in names}
            again = TrainSettings.from_json(json.loads(json.dumps(old)))
            assert again == new
            assert [getattr(again, name) for name in names] == [(1.0, 1.0), (0.0, 0.0), None, 0.0, 0.0]
            assert not again.composed

    def test_spellings_of_a_norm_are_one_setting(self) -> None:
        assert TrainSettings(eps=0.1, norm="inf") == TrainSettings(eps=0.1)  # type: ignore[arg-type]


class TestSchedule:
    def test_eps_is_reached_after_the_ramp_and_not_before(self) -> None:
        settings = TrainSettings(eps=0.1, epochs=9, eps_start=0.02, eps_ramp=4)
        assert [settings.reached(epoch) for epoch in (3, 3.99, 4, 9)] == [False, False, True, True]
        assert (settings.eps_at(0), settings.eps_at(4)) == (0.02, 0.1)
        assert TrainSettings(eps=0.1, eps_schedule="constant").reached(0)

    def test_a_warm_up_comes_before_the_ramp(self) -> None:
        settings = TrainSettings(eps=0.1, epochs=9, eps_warmup=2, eps_ramp=4)
        assert [settings.eps_at(position) for position in (0, 1.99, 2, 4, 6)] == [0.0, 0.0, 0.0, 0.05, 0.1]
        assert [settings.reached(position) for position in (0, 2, 4, 5.99, 6)] == [False, False, False, False, True]
        constant = TrainSettings(eps=0.1, epochs=9, eps_schedule="constant", eps_warmup=2)
        assert [constant.eps_at(position) for position in (0, 1.99, 2)] == [0.0, 0.0, 0.1]
        assert [constant.reached(position) for position in (0, 1.99, 2)] == [False, False, True]
        assert [settings.lr_at(position) for position in (0, 5)] == [settings.lr] * 2

    def test_a_ramp_that_is_not_given_ends_with_training(self) -> None:
        assert TrainSettings(eps=0.1, epochs=9, eps_warmup=8).eps_ramp == 1.0
        assert TrainSettings(eps=0.1, epochs=9, eps_warmup=5).eps_ramp == 3.0

    def test_weights_go_with_eps(self) -> None:
        settings = TrainSettings(eps=0.4, method="crown-ibp", beta=(1, 0), kappa=(1, 0.5))
        assert [settings.beta_at(eps) for eps in (0, 0.1, 0.4)] == [1.0, 0.75, 0.0]
        assert [settings.kappa_at(eps) for eps in (0, 0.1, 0.4)] == [1.0, 0.875, 0.5]

    def test_what_validation_looks_at(self) -> None:
        settings = TrainSettings(eps=0.4, method="crown-ibp", eps_test=0.3)
        assert (settings.validation_ball.eps, settings.ball().eps) == (0.3, 0.4)
        assert TrainSettings(eps=0.4).validation_ball.eps == 0.4
        methods = {beta: TrainSettings(eps=0.4, method="crown-ibp", beta=beta).exact_methods for beta in BETAS}
        own, ibp = NAMED["crown-ibp"], NAMED["ibp"]
        assert methods == {(1, 1): (own,), (0, 1): (own,), (1, 0): (own, ibp), (1, 0.5): (own, ibp)}

    def test_every_step_has_slopes_of_its_own_and_validation_the_same(self) -> None:
        settings = TrainSettings(eps=0.1, method="tight-smooth:steps=2")
        slopes = [settings.methods(seed)[0].slopes for seed in (3, 4)]
        assert [getattr(rule, "seed", None) for rule in slopes] == [3, 4]
        assert settings.exact_methods == parse_method("tight-smooth:steps=2")

    def test_streams_differ_by_purpose_seed_and_position(self) -> None:
        a, b = TrainSettings(eps=0.1), TrainSettings(eps=0.1, seed=1)
        seeds = [of.stream(*args) for of in (a, b) for args in (("order", 0), ("order", 1), ("projections", 0, 1))]
        assert len(set(seeds)) == 6
        assert all(0 <= seed < 2**63 for seed in seeds)
        assert a.stream("order", 3) == TrainSettings(eps=0.1).stream("order", 3)
