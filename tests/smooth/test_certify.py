"""PREDICT, CERTIFY and T-CERTIFY on models whose smoothed answers are known."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from torch import Tensor, nn

from tests.certify.examples import linear
from verifix.errors import InvalidType, InvalidValue
from verifix.smooth.certify import Question, SmoothedClassifier
from verifix.smooth.noise import Gaussian, KeepOrReplace, Laplace, Purpose, Samples, Splitting, Uniform
from verifix.smooth.sequential import Answer

RULES = ("certify", "t-certify", "t-certify-paper")
AXIS = linear([[0.6, 0.8], [-0.6, -0.8]], [0.05, -0.05])
"""Two classes, with the boundary ``0.6 a + 0.8 b + 0.05 = 0``: a distance of ``|0.6 a + 0.8 b + 0.05|`` in l2."""


def distance(x: Tensor) -> np.ndarray:
    return np.abs((x.double() @ AXIS.weight[0].double() + AXIS.bias[0].double()).detach().numpy())


def points(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed)) / 4


class Recorded(Gaussian):
    """Gaussian noise that remembers what was asked of it."""

    asked: ClassVar[list[Samples]] = []

    def draw(self, x: Tensor, samples: Samples) -> Tensor:
        self.asked.append(samples)
        return super().draw(x, samples)


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    Recorded.asked.clear()
    yield Recorded(0.5)


class TestCoverage:
    """A linear classifier smoothed by Gaussian noise keeps its boundary, so that every certificate can be checked."""

    @pytest.mark.parametrize("rule", RULES)
    def test_certificates_fail_as_rarely_as_they_say(self, rule: str) -> None:
        alpha, total, wrong, certified = 0.1, 0, 0, 0
        for seed in range(3):
            x = points(1000, seed)
            found = SmoothedClassifier(AXIS, Gaussian(0.25), classes=2, seed=seed).certify(
                x, n0=20, n=200, alpha=alpha, rule=rule
            )
            true = AXIS(x).argmax(1).numpy()
            bad = ~np.isnan(found.radius) & ((found.predictions != true) | (found.radius > distance(x)))
            total, wrong = total + len(x), wrong + int(bad.sum())
            certified += int((~np.isnan(found.radius)).sum())
        assert certified > total / 2
        assert wrong > 0  # the level is used: at 0.1, none at all among thousands would be a mistake elsewhere
        assert wrong <= binom.ppf(1 - 1e-6, total, 1 - found.confidence)

    def test_predictions_fail_as_rarely_as_they_say(self) -> None:
        x = points(2000)
        found = SmoothedClassifier(AXIS, Gaussian(0.25), classes=2).predict(x, n=50, alpha=0.1)
        wrong = (found.predictions != -1) & (found.predictions != AXIS(x).argmax(1).numpy())
        assert (found.predictions != -1).mean() > 0.5
        assert wrong.sum() <= binom.ppf(1 - 1e-6, len(x), 0.1)

    def test_radius_tends_to_the_distance(self) -> None:
        x = torch.tensor([[0.3, 0.2]])
        found = SmoothedClassifier(AXIS, Gaussian(0.5), classes=2).certify(x, n0=100, n=100_000, alpha=0.001)
        assert 0.97 * distance(x)[0] < found.radius[0] < distance(x)[0]
        top = norm.cdf(distance(x)[0] / 0.5)
        assert found.probabilities.top[0] < top < found.probabilities.top[0] + 0.01


class TestSamples:
    @pytest.mark.parametrize("rule", RULES)
    def test_selection_and_estimation_share_none(self, recorded: Recorded, rule: str) -> None:
        SmoothedClassifier(AXIS, recorded, classes=2, seed=5).certify(points(2), n0=110, n=250, alpha=0.01, rule=rule)
        drawn: dict[Purpose, dict[int, list[int]]] = {}
        for samples in recorded.asked:
            own = drawn.setdefault(samples.purpose, {}).setdefault(int(samples.inputs), [])
            own += range(samples.start, samples.start + samples.count)
            assert samples.seed == 5
        assert {purpose: {k: sorted(v) for k, v in own.items()} for purpose, own in drawn.items()} == {
            Purpose.SELECTION: {0: list(range(110)), 1: list(range(110))},
            Purpose.ESTIMATION: {0: list(range(250)), 1: list(range(250))},
        }

    def test_prediction_has_its_own(self, recorded: Recorded) -> None:
        SmoothedClassifier(AXIS, recorded, classes=2).predict(points(1), n=30, alpha=0.01)
        assert {samples.purpose for samples in recorded.asked} == {Purpose.PREDICTION}

    def test_what_is_reported(self) -> None:
        found = SmoothedClassifier(AXIS, Gaussian(0.5), classes=2, seed=9).certify(
            points(4), n0=10, n=1000, alpha=0.02, rule="certify"
        )
        assert found.selection.sum(1).tolist() == [10] * 4
        assert found.counts.sum(1).tolist() == found.samples.tolist() == [1000] * 4
        assert (found.alpha, found.rule, found.seed, found.noise) == (0.02, "certify", 9, Gaussian(0.5))
        assert (found.float_sound, found.closed, found.total_variation) == (False, False, 0.0)
        assert found.confidence == 0.98

    def test_the_papers_rule_says_what_it_is_proven_at(self) -> None:
        found = SmoothedClassifier(AXIS, Gaussian(0.5), classes=2).certify(
            points(1), n0=10, n=1000, alpha=0.01, rule="t-certify-paper"
        )
        assert found.confidence == pytest.approx(1 - 0.019, abs=1e-15)


class TestAbstention:
    def test_on_the_boundary(self) -> None:
        x = torch.tensor([[-0.05 * 0.6, -0.05 * 0.8]])
        smoothed = SmoothedClassifier(AXIS, Gaussian(0.5), classes=2)
        found = smoothed.certify(x, n0=100, n=1000, alpha=0.001)
        assert found.predictions.tolist() == [-1]
        assert np.isnan(found.radius).all()
        assert found.candidates[0] in (0, 1)
        assert smoothed.predict(x, n=1000, alpha=0.001).predictions.tolist() == [-1]

    def test_invalid_samples_count_against_the_class(self) -> None:
        class NanAbove(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return torch.where(x > 0.5, torch.nan, torch.cat([x, x - 1], 1))

        x = torch.tensor([[0.0], [0.5 - 0.6745 * 0.5], [2.0]])  # NaN with probability 0.16, 0.25 and nearly 1
        found = SmoothedClassifier(NanAbove(), Gaussian(0.5), classes=2).certify(x, n0=100, n=5000, alpha=0.001)
        assert found.candidates.tolist() == [0, 0, -1]
        assert found.predictions.tolist() == [0, 0, -1]
        assert found.counts[2].sum() == 0
        assert (found.invalid[:2] > 500).all()
        assert found.invalid[2] > 90
        assert (found.probabilities.top[:2] < 1 - found.counts[:2, 2] / 5000).all()
        assert (found.probabilities.other[:2] > found.counts[:2, 2] / 5000).all()
        assert found.radius[0] < 0.5  # at a distance of 0.5, NaN is as frequent

    @pytest.mark.parametrize("ask", ["certify", "predict"])
    def test_only_nan(self, ask: str) -> None:
        model = linear([[1.0], [-1.0]])
        with torch.no_grad():
            model.bias.fill_(torch.nan)
        smoothed = SmoothedClassifier(model, Gaussian(0.5), classes=2)
        arguments: dict[str, Any] = {"n": 100, "alpha": 0.01} | ({"n0": 10} if ask == "certify" else {})
        with pytest.raises(InvalidValue, match="model = Linear: gives NaN on all"):
            getattr(smoothed, ask)(torch.zeros(2, 1), **arguments)

    def test_no_inputs(self) -> None:
        found = SmoothedClassifier(AXIS, Gaussian(0.5), classes=2).certify(points(0), n0=10, n=100, alpha=0.01)
        assert found.radius.shape == found.predictions.shape == (0,)


class TestNoise:
    @pytest.mark.parametrize(
        ("noise", "norm_", "closed", "float_sound"),
        [
            (Laplace(0.3), "l1", False, False),
            (Uniform(1.0), "l1", False, False),
            (Gaussian(0.5, lattice=20), "l2", False, True),
            (Laplace(0.3, lattice=20), "l1", False, True),
            (KeepOrReplace(0.9, levels=20), "l0", True, True),
        ],
    )
    def test_families(self, noise: Any, norm_: str, closed: bool, float_sound: bool) -> None:
        x = torch.tensor([[1.0, 0.95], [0.0, 0.05]])
        found = SmoothedClassifier(AXIS, noise, classes=2).certify(x, n0=50, n=2000, alpha=0.01)
        assert (found.noise.norm, found.closed, found.float_sound) == (norm_, closed, float_sound)
        assert found.radius[0] > 0 or norm_ == "l0"
        assert not np.isnan(found.radius[0])
        assert (found.total_variation > 0) == float_sound

    def test_probabilities_are_moved_by_the_total_variation(self) -> None:
        class Far(Gaussian):
            def total_variation(self, coordinates: int) -> float:
                return 1e-3 * coordinates

        x = torch.tensor([[1.0, 0.95]])
        near, far = (
            SmoothedClassifier(AXIS, noise, classes=2).certify(x, n0=50, n=2000, alpha=0.01)
            for noise in (Gaussian(0.5, lattice=20), Far(0.5, lattice=20))
        )
        assert near.counts.tolist() == far.counts.tolist()
        assert far.total_variation == 4e-3
        assert far.probabilities.top[0] <= near.probabilities.top[0] - 4e-3 + 1e-9
        assert far.probabilities.other[0] >= near.probabilities.other[0] + 4e-3 - 1e-9
        assert far.radius[0] < near.radius[0]

    def test_off_the_lattice(self) -> None:
        with pytest.raises(InvalidValue, match="lattice"):
            SmoothedClassifier(AXIS, Gaussian(0.5, lattice=255), classes=2).certify(
                torch.full((1, 2), 0.5), n0=10, n=100, alpha=0.01
            )


class TestExactly:
    noise = Splitting(1.0, lattice=10)

    def test_from_every_outcome(self) -> None:
        x = torch.tensor([[1.0, 0.9], [0.2, 0.1], [0.5, 0.5]])
        model = linear([[1.0, 1.0], [-1.0, -1.0]], [-0.8, 0.8])
        found = SmoothedClassifier(model, self.noise, classes=2).certify_exactly(x)
        assert (found.confidence, found.alpha, found.rule, found.closed, found.float_sound) == (
            1,
            0,
            "exact",
            True,
            True,
        )
        assert found.counts.sum(1).tolist() == [20] * 3
        assert found.selection.sum() == 0
        for row in range(3):
            best = int(found.counts[row].argmax())
            others = np.delete(found.counts[row], best)
            assert found.candidates[row] == found.predictions[row] == best
            lead = int(found.counts[row, best] - others.max()) - (int(others.argmax()) < best)
            assert found.radius[row] == lead // 2 / 10

    def test_radius_holds_for_all_lattice_inputs(self) -> None:
        """Every certificate against every other input of the lattice."""
        axis = torch.arange(11) / 10
        x = torch.cartesian_prod(axis, axis)
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 3))
        with torch.no_grad():
            model[0].weight.mul_(6)
            model[2].bias -= model(x).mean(0)
        found = SmoothedClassifier(model, self.noise, classes=3).certify_exactly(x)
        between = (x[:, None].double() - x[None].double()).abs().sum(2).numpy()
        inside = between <= found.radius[:, None] + 1e-6
        assert inside.sum() > 2 * len(x)
        assert (~inside | (found.predictions[:, None] == found.predictions[None])).all()
        assert len(set(found.predictions.tolist())) > 1

    def test_only_splitting_noise_on_a_lattice(self) -> None:
        for noise in (Splitting(1.0), Gaussian(0.5, lattice=255)):
            with pytest.raises(InvalidValue, match="too many outcomes"):
                SmoothedClassifier(AXIS, noise, classes=2).certify_exactly(torch.zeros(1, 2))


class TestErrors:
    @pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 1.5, float("nan")])
    def test_alpha(self, alpha: float) -> None:
        smoothed = SmoothedClassifier(AXIS, Gaussian(0.5), classes=2)
        with pytest.raises(InvalidValue, match="alpha"):
            smoothed.certify(points(1), n0=10, n=100, alpha=alpha)
        with pytest.raises(InvalidValue, match="alpha"):
            smoothed.predict(points(1), n=100, alpha=alpha)

    def test_too_few_samples_name_the_smallest_number(self) -> None:
        smoothed = SmoothedClassifier(AXIS, Gaussian(0.5), classes=2)
        with pytest.raises(InvalidValue, match=r"\bn = 9: .*10"):  # 0.001 ** (1 / 9) < 1 / 2
            smoothed.certify(points(1), n0=10, n=9, alpha=0.001, rule="certify")
        with pytest.raises(InvalidValue, match=r"\bn = 10: .*11"):  # 2 * 0.5 ** 10 > 0.001
            smoothed.predict(points(1), n=10, alpha=0.001)

    @pytest.mark.parametrize("alpha", [0.001, 1e-12, 1e-30])
    def test_the_number_that_is_named_is_the_smallest_with_checkpoints_too(self, alpha: float) -> None:
        def ask(n: int) -> Question:
            return Question(n0=10, n=n, alpha=alpha, radius=0.5)

        with pytest.raises(InvalidValue) as caught:
            ask(5)  # one checkpoint, with all of alpha; 101 samples have four
        found = re.search(f"at alpha = {alpha}, .* at least ([0-9]+) samples", str(caught.value))
        assert found is not None
        assert ask(int(found[1])).n == int(found[1])
        with pytest.raises(InvalidValue):
            ask(int(found[1]) - 1)

    @pytest.mark.parametrize(("change", "named"), [({"rule": "u-certify"}, "rule"), ({"n0": 0}, "n0"), ({"n": 0}, "n")])
    def test_question(self, change: dict[str, Any], named: str) -> None:
        with pytest.raises(InvalidValue, match=f"{named} = "):
            Question(**{"n0": 10, "n": 1000, "alpha": 0.01, **change})

    def test_numbers(self) -> None:
        with pytest.raises(InvalidType, match="n is a float"):
            Question(n0=10, n=1e5, alpha=0.01)  # type: ignore[arg-type]
        with pytest.raises(InvalidType, match="radius is a str"):
            Question(n0=10, n=1000, alpha=0.01, radius="1")  # type: ignore[arg-type]
        numpy = Question(np.int64(10), np.int32(1000), 0.01, radius=np.float32(0.5))  # type: ignore[arg-type]
        assert json.loads(json.dumps(asdict(numpy))) == asdict(Question(10, 1000, 0.01, radius=0.5))

    def test_nothing_is_drawn_for_bad_input(self, recorded: Recorded) -> None:
        with pytest.raises(InvalidValue):
            SmoothedClassifier(AXIS, recorded, classes=2).certify(points(1), n0=10, n=5, alpha=0.001)
        assert not recorded.asked


class TestStoppingEarly:
    def ask(self, x: Tensor, **question: Any) -> Any:
        return SmoothedClassifier(AXIS, Gaussian(0.5), classes=2).certify(
            x, **{"n0": 50, "n": 20_000, "alpha": 0.01, **question}
        )

    def test_a_radius(self) -> None:
        x = torch.tensor([[1.0, 1.0], [0.3, 0.2], [0.0, 0.0], [0.312, 0.2]])  # at 1.45, 0.39, 0.05 and 0.3972
        found = self.ask(x, radius=0.4)
        assert found.answers.tolist()[:3] == [Answer.YES, Answer.OPEN, Answer.NO]
        assert found.radius[0] >= 0.4
        assert found.samples[0] < 200
        assert found.samples[2] < 2000
        assert (found.samples <= 20_000).all()
        certified = ~np.isnan(found.radius)
        assert (found.radius[certified] <= distance(x)[certified]).all()
        assert ((found.answers == Answer.YES) == (np.nan_to_num(found.radius) >= 0.4)).all()

    def test_a_relative_width(self) -> None:
        x = torch.tensor([[0.3, 0.2], [1.0, 1.0]])
        wide, narrow = (self.ask(x, relative_width=width) for width in (0.5, 0.2))
        assert wide.answers[0] == narrow.answers[0] == Answer.YES
        assert (wide.samples <= narrow.samples).all()
        assert wide.samples[0] < narrow.samples[0] < 20_000
        assert (1 - 0.2) * distance(x)[0] <= narrow.radius[0] <= distance(x)[0]
        assert (1 - 0.5) * distance(x)[0] <= wide.radius[0] <= distance(x)[0]

    @pytest.mark.parametrize("rule", ["certify", "t-certify"])
    def test_certificates_fail_as_rarely_as_they_say(self, rule: str) -> None:
        x = points(600, 7)
        found = SmoothedClassifier(AXIS, Gaussian(0.25), classes=2).certify(
            x, n0=20, n=600, alpha=0.1, rule=rule, radius=0.1
        )
        certified = ~np.isnan(found.radius)
        wrong = certified & ((found.predictions != AXIS(x).argmax(1).numpy()) | (found.radius > distance(x)))
        assert certified.mean() > 0.5
        assert wrong.sum() <= binom.ppf(1 - 1e-6, len(x), 0.1)
        assert found.samples.mean() < 300

    def test_samples_are_those_of_the_fixed_number(self) -> None:
        """Stopping early looks at the first samples of the same names, each once."""
        x = torch.tensor([[0.3, 0.2]])
        early = self.ask(x, radius=0.2)
        n = int(early.samples[0])
        fixed = SmoothedClassifier(AXIS, Gaussian(0.5), classes=2).certify(x, n0=50, n=n, alpha=0.01)
        assert early.counts.tolist() == fixed.counts.tolist()
        assert early.selection.tolist() == fixed.selection.tolist()

    @pytest.mark.parametrize(
        ("question", "message"),
        [
            ({"radius": 0.0}, "radius = 0.0: must be finite and above 0"),
            ({"radius": float("nan")}, "radius = nan"),
            ({"relative_width": 1.0}, "relative_width = 1.0: must be above 0 and below 1"),
            ({"radius": 1.0, "relative_width": 0.5}, "leave it out where a radius is asked for"),
            ({"radius": 1.0, "rule": "t-certify-paper"}, "take certify or t-certify"),
            ({"radius": 1.0, "n": 9}, "n = 9: is too small"),
        ],
    )
    def test_bad_questions(self, question: dict[str, Any], message: str) -> None:
        with pytest.raises(InvalidValue) as caught:
            Question(**{"n0": 10, "n": 1000, "alpha": 0.001, **question})
        assert message in str(caught.value)
