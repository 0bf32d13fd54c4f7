"""Attacks of minimum norm and by noise."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import verifix as vx
from verifix.attack import DDN, Attack, CarliniWagner, DeepFool, GaussianNoise, SaltAndPepper
from verifix.attack.nearest import box_sides, into_box, weights
from verifix.data import load
from verifix.errors import InvalidType, InvalidValue
from verifix.models import load_model
from verifix.sets import Ball, Box, LpBall
from verifix.sets.base import Norm

FAR = 1e6


def problem(n: int = 6, size: int = 12, classes: int = 2) -> tuple[nn.Linear, Tensor, Tensor]:
    """A linear network and images that it gets right."""
    generator = torch.Generator().manual_seed(3)
    layer = nn.Linear(size, classes).double()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(classes, size, generator=generator))
        layer.bias.copy_(torch.randn(classes, generator=generator))
    x = (1.6 * torch.rand(n, size, generator=generator).double() - 0.3).clamp(0, 1)
    return layer, x, layer(x).detach().argmax(1)


def nearest(layer: nn.Linear, sets: LpBall, y: Tensor) -> Tensor:
    """The exact distances to the nearest wrong point, from the support function: where it reaches the margin."""
    weight, bias = layer.weight.detach(), layer.bias.detach()
    found = torch.full((len(y),), torch.inf, dtype=torch.float64)
    for j in range(len(weight)):
        rows, offset = weight[j] - weight[y], bias[j] - bias[y]
        scale = sets.eps.flatten(1).amax(1)
        low, high = torch.zeros(len(y)).double(), torch.full((len(y),), 1e3).double()
        for _ in range(60):
            middle = (low + high) / 2
            eps = sets.eps * (middle / scale)[:, None]
            ball = LpBall(sets.center, sets.norm, eps, sets.box)
            reached = ball.support(rows[:, None])[:, 0] + offset >= 0
            low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
        high = torch.where(high < 999, high, torch.inf)
        found = torch.where(y == j, found, torch.minimum(found, high))
    return found


SHARP = {
    "DeepFool": (DeepFool(overshoot=1e-6, steps=200), 1.0 + 1e-5, 1.5),
    "DDN": (
        DDN(steps=300, norm_factor=0.02, start_norm=0.2, step_size=0.3, final_step_size=1e-3, loss="margin"), 1.03, 1.03
    ),
    "CarliniWagner": (CarliniWagner(searches=7, steps=200, learning_rate=0.03, initial_constant=0.1), None, 1.1),
}  # fmt: skip
"""Attacks with many steps; how much farther than necessary they may go without and within a box."""


class TestLinearNetworks:
    """Where the nearest wrong point is known."""

    def check(self, attack: Attack, norm: Norm, eps: float | Tensor, box: bool, factor: float, classes: int) -> None:
        layer, x, y = problem(classes=classes)
        ball = Ball(norm, eps, box=(0, 1) if box else None)
        result = attack(layer, x, y, ball)
        exact = nearest(layer, ball.around(x), y)
        assert torch.isfinite(exact).sum() >= 4
        met = layer(result.examples).argmax(1) != y
        assert torch.equal(met, torch.isfinite(exact))
        assert bool((result.distance[met] >= exact[met] * (1 - 1e-9)).all())
        assert bool((result.distance[met] <= exact[met] * factor).all())

    @pytest.mark.parametrize("name", ["DeepFool", "DDN"])
    @pytest.mark.parametrize("classes", [2, 4])
    def test_without_a_box(self, name: str, classes: int) -> None:
        attack, factor, _ = SHARP[name]
        self.check(attack, "l2", FAR, False, factor, classes)

    @pytest.mark.parametrize(
        ("name", "classes"), [("DeepFool", 2), ("DeepFool", 4), ("DDN", 2), ("DDN", 4), ("CarliniWagner", 4)]
    )
    def test_in_a_box(self, name: str, classes: int) -> None:
        attack, _, factor = SHARP[name]
        self.check(attack, "l2", FAR, True, factor, classes)

    @pytest.mark.parametrize("box", [False, True])
    def test_deepfool_along_signs(self, box: bool) -> None:
        self.check(SHARP["DeepFool"][0], "linf", FAR, box, 1.5 if box else 1.0 + 1e-5, 4)

    @pytest.mark.parametrize(
        ("name", "box"),
        [("DeepFool", False), ("DeepFool", True), ("DDN", False), ("DDN", True), ("CarliniWagner", True)],
    )
    def test_radii_per_coordinate(self, name: str, box: bool) -> None:
        attack, without, within = SHARP[name]
        generator = torch.Generator().manual_seed(1)
        eps = FAR * torch.rand(1, 12, generator=generator).double()
        eps[0, :3] = 0
        self.check(attack, "l2", eps, box, within if box else without, 2)


class TestEps:
    @pytest.mark.parametrize("attack", [DeepFool(), DDN(), CarliniWagner(steps=50, learning_rate=0.1)])
    def test_it_decides_what_success_is_and_nothing_else(self, attack: Attack) -> None:
        layer, x, y = problem(classes=4)
        results = [attack(layer, x, y, Ball("l2", eps, box=(0, 1))) for eps in (0.0, 0.3, FAR)]
        for result in results[:2]:
            assert torch.equal(result.examples, results[2].examples)
            assert torch.equal(result.distance, results[2].distance)
        assert not results[0].success.any()
        assert torch.equal(results[1].success, results[2].success & (results[2].distance <= 0.3))
        assert 0 < int(results[1].success.sum()) < len(x)

    def test_inputs_that_are_wrong_are_their_own_nearest_points(self) -> None:
        layer, x, y = problem(classes=4)
        for attack in (DeepFool(), DDN(), CarliniWagner(confidence=9.0), GaussianNoise(), SaltAndPepper()):
            result = attack(layer, x, (y + 1) % 4, Ball("l2", 0.0, box=(0, 1)))
            assert result.success.all()
            assert torch.equal(result.examples, x)
            assert result.forwards.tolist() == [2] * len(x)


class TestSettings:
    def test_confidence(self) -> None:
        layer, x, y = problem(classes=4)
        ball = Ball("l2", FAR, box=(0, 1))
        plain, sure = (
            CarliniWagner(searches=4, steps=150, learning_rate=0.05, initial_constant=0.1, confidence=confidence)(
                layer, x, y, ball
            )
            for confidence in (0.0, 0.5)
        )
        found = plain.success & (sure.margins <= -0.5)
        assert int(found.sum()) >= 4
        assert bool((plain.margins[plain.success] > -0.1).all())
        assert bool((sure.distance > plain.distance)[found].all())

    def test_levels(self) -> None:
        layer, x, y = problem()
        x = (x * 15).round() / 15
        result = DDN(levels=16)(layer, x, y, Ball("l2", FAR, box=(0, 1)))
        places = result.examples * 15
        assert result.success.any()
        torch.testing.assert_close(places, places.round(), rtol=0, atol=1e-9)

    def test_aborted_inputs_cost_less(self) -> None:
        layer, x, y = problem()
        ball = Ball("l2", FAR, box=(0, 1))
        whole, short = (
            CarliniWagner(searches=4, steps=300, learning_rate=0.05, initial_constant=0.1, abort_early=abort)(
                layer, x, y, ball
            )
            for abort in (False, True)
        )
        asked = (~(whole.forwards == 2)).nonzero()[:, 0]
        assert bool((whole.forwards[asked] == 2 + 4 * 300).all())
        assert bool((short.forwards[asked] < 0.8 * whole.forwards[asked]).all())
        assert bool((short.distance <= 1.1 * whole.distance)[whole.success].all())

    def test_candidates_are_the_price(self) -> None:
        layer, x, y = problem(classes=4)
        for candidates in (1, 2, 3, 10):
            result = DeepFool(steps=1, candidates=candidates)(layer, x, y, Ball("l2", FAR))
            assert result.backwards.tolist() == [min(candidates, 3)] * len(x)

    @pytest.mark.parametrize(
        ("attack", "settings", "name"),
        [
            (DeepFool, {"steps": 0}, "steps"),
            (DeepFool, {"overshoot": -0.1}, "overshoot"),
            (DeepFool, {"candidates": 0}, "candidates"),
            (DDN, {"steps": 0}, "steps"),
            (DDN, {"norm_factor": 1.0}, "norm_factor"),
            (DDN, {"norm_factor": 0.0}, "norm_factor"),
            (DDN, {"start_norm": float("nan")}, "start_norm"),
            (DDN, {"step_size": 0.0}, "step_size"),
            (DDN, {"levels": 1}, "levels"),
            (DDN, {"loss": "hinge"}, "loss"),
            (CarliniWagner, {"searches": 0}, "searches"),
            (CarliniWagner, {"learning_rate": float("inf")}, "learning_rate"),
            (CarliniWagner, {"initial_constant": 0}, "initial_constant"),
            (CarliniWagner, {"confidence": -1.0}, "confidence"),
            (GaussianNoise, {"repeats": 0}, "repeats"),
            (SaltAndPepper, {"searches": -1}, "searches"),
        ],
    )
    def test_that_cannot_be(self, attack: type[Attack], settings: dict[str, object], name: str) -> None:
        with pytest.raises(InvalidValue, match=f"^{name} = "):
            attack(**settings)

    def test_types(self) -> None:
        with pytest.raises(InvalidType, match=r"^steps is a float"):
            DDN(steps=1.5)  # type: ignore[arg-type]
        with pytest.raises(InvalidType, match=r"^abort_early is a int"):
            CarliniWagner(abort_early=1)  # type: ignore[arg-type]


class TestSets:
    @pytest.mark.parametrize(
        ("attack", "norm"), [(DeepFool(), "l1"), (DDN(), "linf"), (DDN(), "l1"), (CarliniWagner(), "linf")]
    )
    def test_other_norms_are_refused(self, attack: Attack, norm: Norm) -> None:
        layer, x, y = problem()
        with pytest.raises(InvalidValue, match=f"{type(attack).__name__} looks for the nearest point in l2"):
            attack(layer, x, y, Ball(norm, 0.1, box=(0, 1)))

    @pytest.mark.parametrize("attack", [DeepFool(), DDN(), CarliniWagner()])
    def test_boxes_have_no_distance(self, attack: Attack) -> None:
        layer, x, y = problem()
        with pytest.raises(InvalidValue, match="use a Ball of that norm"):
            attack(layer, x, y, Box(x - 1, x + 1))

    def test_what_needs_a_box(self) -> None:
        layer, x, y = problem()
        with pytest.raises(InvalidValue, match=r"CarliniWagner searches in a box: give the Ball one"):
            CarliniWagner()(layer, x, y, Ball("l2", 1.0))
        with pytest.raises(InvalidValue, match=r"levels = 256: needs a box"):
            DDN(levels=256)(layer, x, y, Ball("l2", 1.0))

    def test_sides_that_float32_does_not_hit(self) -> None:
        """Rounded inwards: what is clipped to them lies in the box."""
        x = torch.rand(50, 7, generator=torch.Generator().manual_seed(0))
        sets = Ball("l2", FAR, box=(x.double() - 1e-9, x.double() + 0.1)).around(x)
        sides = box_sides(sets)
        for far in (-9.0, 9.0):
            assert sets.contains(into_box(torch.full_like(x, far), sides)).all()

    def test_weights(self) -> None:
        x = torch.rand(2, 3)
        assert weights(Ball("l2", torch.tensor([0.5, 0.0])).around(x)).tolist() == [[1.0] * 3] * 2
        eps = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.0, 0.0]])
        assert weights(Ball("l2", eps).around(x)).tolist() == [[1.0, 0.5, 0.0], [0.0] * 3]


class TestNoise:
    def test_the_scale_is_the_smallest(self) -> None:
        """On the way to the draw that was wrong, the example is a thousandth beyond the border."""
        layer, x, y = problem(size=4)
        result = GaussianNoise(searches=20)(layer, x, y, Ball("l2", 2.0))
        found = result.success & (result.distance > 0)
        assert found.any()
        assert bool((result.distance[found] < 2).all())
        back = x + (result.examples - x) * (1 - 1e-3)
        assert torch.equal(layer(back).argmax(1)[found], y[found])

    @pytest.mark.parametrize("kind", [GaussianNoise, SaltAndPepper])
    def test_the_smallest_scale_of_all_draws(self, kind: type[GaussianNoise | SaltAndPepper]) -> None:
        """More draws never find a farther example, and now and then a nearer one."""
        layer, x, y = problem(n=20)
        sets = Ball("l1", 9.0, box=(-3, 3)).around(x)
        found = [kind(repeats=repeats)(layer, x, y, sets) for repeats in (1, 4, 16)]
        for fewer, more in itertools.pairwise(found):
            assert bool(more.success[fewer.success].all())
            assert bool((more.distance <= fewer.distance)[fewer.success].all())
            assert bool((more.distance < fewer.distance)[fewer.success].any())

    @pytest.mark.parametrize("norm", ["l2", "l1"])
    def test_salt_and_pepper_is_black_and_white(self, norm: Norm) -> None:
        """Pixels of several channels go together."""
        generator = torch.Generator().manual_seed(0)
        x = 0.2 + 0.6 * torch.rand(4, 3, 5, 5, generator=generator).double()
        layer = nn.Sequential(nn.Flatten(), problem(size=75)[0])
        y = layer(x).detach().argmax(1)
        result = SaltAndPepper(repeats=50)(layer, x, y, Ball(norm, 3.0 if norm == "l2" else 30.0, box=(0, 1)))
        assert result.success.any()
        assert result.feasible.all()
        changed = result.examples != x
        assert torch.equal(changed.any(1), changed.all(1))
        assert bool(((result.examples == 0) | (result.examples == 1))[changed].all())

    def test_no_more_pixels_than_eps_allows(self) -> None:
        x = torch.full((1, 1, 6, 6), 0.5)
        seen: list[int] = []

        def model(points: Tensor) -> Tensor:
            seen.extend((points != 0.5).flatten(1).sum(1).tolist())
            return torch.tensor([[2.0, 0.0]]).expand(len(points), 2)

        SaltAndPepper(repeats=3)(model, x, torch.tensor([0]), Ball("l1", 4.0, box=(0, 1)))
        assert set(seen) == {0, 8}


class TestPublishedNetwork:
    """``mnist_vanilla.pth``, where adv-lib 0.2.8 finds mean l2 distances of 1.026 (DDN, 100 steps) and 1.186 (DeepFool)
    on the first 100 images, and 0.0822 in l_inf (DeepFool)."""

    @pytest.fixture
    def given(self, data_dir: Path, models_dir: Path) -> tuple[nn.Module, Tensor, Tensor]:
        data = load(f"mnist:{data_dir / 'mnist'}")
        weights = f"{models_dir / 'projected_sinkhorn' / 'mnist_vanilla.pth'}#0"
        return load_model("verifix.zoo:mnist_small", weights), data.images[:100].float(), data.labels[:100]

    @pytest.mark.parametrize(
        ("attack", "norm", "mean"), [(DDN(), "l2", 1.028), (DeepFool(), "l2", 1.186), (DeepFool(), "linf", 0.0822)]
    )
    def test_as_near_as_others(
        self, given: tuple[nn.Module, Tensor, Tensor], attack: Attack, norm: Norm, mean: float
    ) -> None:
        model, x, y = given
        result = attack(model, x, y, Ball(norm, FAR, box=(0, 1)))
        assert result.success.all()
        assert float(result.distance.mean()) == pytest.approx(mean, rel=0.005)

    def test_no_nearer_than_certified(self, given: tuple[nn.Module, Tensor, Tensor]) -> None:
        model, x, y = given
        certified = vx.certify(model, x[:2], y[:2], inputs=Ball("l2", 0.1, box=(0, 1)), method="crown")
        result = DDN()(model, x[:2], y[:2], Ball("l2", 0.1, box=(0, 1)))
        assert certified.verified.any()
        assert not (certified.verified & result.success).any()
