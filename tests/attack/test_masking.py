"""Signs of gradient masking: each is told where it is seen, and not where something like it is."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from tests.attack.test_evaluate import Model, RandomSearch, inputs, two, zeros
from verifix.attack import BIM, FGSM, PGD, Attack, PlanPGD, evaluate
from verifix.attack.masking import CHECKED, SIGNS, warnings_of
from verifix.sets import Ball, Wasserstein


def sawtooth(x: Tensor) -> Tensor:
    """It rises with x and seems to fall."""
    steps = 20 * x
    return (torch.floor(steps) / 20 - 0.01 * (steps - torch.floor(steps))).mean(1)


def noisy(generator: torch.Generator) -> Model:
    return two(lambda x: x.mean(1) + 0.1 * torch.rand(len(x), generator=generator, dtype=x.dtype))


@dataclass
class Case:
    """A sign, and two models or sets of attacks: one that shows it, and one like it that does not."""

    shows: tuple[Model, list[Attack]]
    does_not: tuple[Model, list[Attack]]
    sanity: bool = False
    box: tuple[float, float] | None = None
    eps: float = 0.3
    dimensions: int = 2


PLAIN = two(lambda x: x.mean(1) - 0.2)
WELL = two(lambda x: torch.where(x[:, 0] < 0.5, -1 + 0 * x[:, 0], 0.2 + (x[:, 0] - 0.65).abs()))
VALLEY = two(lambda x: 0.1 + (x - 0.69).square().sum(1))
CASES = {
    "probabilities": Case(
        (lambda x: PLAIN(x).softmax(1), [PGD(steps=3)]), (lambda x: PLAIN(x).log_softmax(1), [PGD(steps=3)])
    ),
    "no gradient": Case((two(lambda x: torch.round(x).mean(1)), [PGD(steps=3)]), (PLAIN, [PGD(steps=3)])),
    "not finite": Case((two(lambda x: x.mean(1) / 0), [PGD(steps=3)]), (PLAIN, [PGD(steps=3)])),
    "gradient-free": Case(
        (two(lambda x: sawtooth(x) - 0.5), [BIM(steps=5), RandomSearch()]),
        (two(lambda x: x.mean(1) - 0.5), [BIM(steps=5), RandomSearch()]),
    ),
    "one step": Case((WELL, [BIM(steps=30), FGSM()]), (WELL, [FGSM(), BIM(steps=30)])),
    "no progress": Case(
        (VALLEY, [PGD(steps=5, step_size=0.3, start_from="input")]),
        (VALLEY, [PGD(steps=5, step_size=0.01, start_from="input")]),
    ),
    "random": Case((noisy(torch.Generator().manual_seed(0)), [PGD(steps=3)]), (PLAIN, [PGD(steps=3)])),
    "batch": Case(
        (two(lambda x: (x - x.mean(0) / 2).mean(1)), [PGD(steps=3)]),
        (two(lambda x: (x - x.mean(1, keepdim=True) / 2).mean(1)), [PGD(steps=3)]),
    ),
    "unbounded": Case(
        (two(lambda x: sawtooth(x) - 0.3), [PGD(steps=3)]),
        (two(lambda x: x.mean(1) - 0.3), [PGD(steps=3)]),
        sanity=True,
        box=(0, 1),
        eps=0.05,
        dimensions=50,
    ),
}


class TestSigns:
    def warned(self, case: Case, model: Model, attacks: list[Attack], batch: int = 500) -> list[str]:
        generator = torch.Generator().manual_seed(2)
        x = 0.7 + 0.02 * torch.rand(30, case.dimensions, generator=generator, dtype=torch.float64)
        with warnings.catch_warnings(record=True) as issued:
            warnings.simplefilter("always")
            ball = Ball("linf", case.eps, case.box)
            found = evaluate(model, x, zeros(30), ball, attacks, sanity=case.sanity, batch=batch)
        assert [str(warning.message) for warning in issued] == found.warnings
        return found.warnings

    def test_every_sign_has_a_case(self) -> None:
        assert set(CASES) == set(SIGNS)

    @pytest.mark.parametrize("name", CASES)
    def test_shown(self, name: str) -> None:
        beginning = SIGNS[name].text.split("{")[0]
        told = [text for text in self.warned(CASES[name], *CASES[name].shows) if self._is(name, text)]
        assert len(told) == 1
        assert told[0].startswith(beginning)

    @pytest.mark.parametrize("name", CASES)
    def test_not_shown(self, name: str) -> None:
        assert not any(self._is(name, text) for text in self.warned(CASES[name], *CASES[name].does_not))

    @staticmethod
    def _is(name: str, text: str) -> bool:
        """Whether a warning is of this sign: by the words behind its numbers."""
        return text.endswith(SIGNS[name].text.rsplit("}", 1)[1])

    def test_gradients_have_to_fail_first(self) -> None:
        case = CASES["gradient-free"]
        model, attacks = case.shows
        assert not any("fell to an attack without" in text for text in self.warned(case, model, attacks[::-1]))

    @pytest.mark.parametrize("threat", [Ball("linf", 0.0), Wasserstein(0.0), Wasserstein(0.5, window=1)])
    def test_nothing_is_better_than_a_single_point(self, threat: Ball | Wasserstein) -> None:
        x = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
        attack = PGD(steps=3) if isinstance(threat, Ball) else PlanPGD(steps=3)
        found = evaluate(lambda x: torch.stack([x.flatten(1).sum(1), x[:, 0, 0, 0]], 1), x, zeros(4), threat, [attack])
        assert found.warnings == []
        assert found.robust.all()

    def test_random_models_are_not_said_to_mix_batches(self) -> None:
        told = self.warned(CASES["random"], *CASES["random"].shows)
        assert not any("else is in the batch" in text for text in told)

    def test_honest_model_has_none(self) -> None:
        x, _ = inputs(200, 10)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(10, 30), nn.Tanh(), nn.Linear(30, 4)).double()
        y = model(x).argmax(1)
        attacks = [PGD(steps=20), BIM(steps=20, loss="margin"), FGSM(), RandomSearch()]
        found = evaluate(model, x, y, Ball("linf", 0.02), attacks, sanity=True)
        assert found.warnings == []
        assert 0 < found.robust_accuracy < 1

    @pytest.mark.parametrize("batch", [1, 7])
    def test_batch_statistics_are_seen_in_any_batch(self, batch: int) -> None:
        model, attacks = CASES["batch"].shows
        told = self.warned(CASES["batch"], model, attacks, batch)
        assert any("depend on what else is in the batch" in text for text in told)

    def test_batch_norm_without_statistics(self) -> None:
        for stored in (True, False):
            norm = nn.BatchNorm2d(1, track_running_stats=stored)
            model = nn.Sequential(nn.Unflatten(1, (1, 2, 2)), norm, nn.Flatten(), nn.Linear(4, 3)).double()
            x, y = inputs(d=4)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = evaluate(model, x, y, Ball("linf", 0.01), [FGSM()])
            assert bool(found.signs["batch"].any()) != stored

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_one_step_against_many_where_only_one_of_them_runs(self) -> None:
        x = torch.full((30, 1), 0.7, dtype=torch.float64)
        with pytest.warns(UserWarning, match="withstood many steps and fell to one"):
            evaluate(WELL, x, zeros(30), Ball("linf", 0.31, (0, 1)), [RandomSearch(queries=1)], sanity=True)

    def test_thresholds(self) -> None:
        assert warnings_of({}, 10) == []
        assert warnings_of({"gradient-free": 1}, 10) == []
        assert len(warnings_of({"gradient-free": 2}, 10)) == 1
        assert warnings_of({"gradient-free": 20}, 10_000) == []
        assert len(warnings_of({"gradient-free": 21}, 10_000)) == 1
        assert warnings_of({"unbounded": 5}, 10_000) == []
        assert len(warnings_of({"unbounded": 6}, 10_000)) == 1
        assert CHECKED == 100
