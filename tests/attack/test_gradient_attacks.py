"""The gradient family where the optimum is known: on linear networks, and by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from verifix.attack import BIM, FGSM, MIM, PGD, Attack, RandomFGSM, UniformFGSM
from verifix.errors import InvalidType, InvalidValue
from verifix.sets import Ball, Box
from verifix.sets.base import Norm

EPS: dict[Norm, float] = {"linf": 0.2, "l2": 0.7, "l1": 2.0}
NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")


def linear(n: int = 8, size: int = 20) -> tuple[nn.Linear, Tensor, Tensor, Tensor]:
    """A linear network with 2 classes, images with black and white pixels, labels, and the gradients of the margins."""
    generator = torch.Generator().manual_seed(7)
    layer = nn.Linear(size, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(2, size, generator=generator))
    x = (1.6 * torch.rand(n, size, generator=generator).double() - 0.3).clamp(0, 1)
    y = torch.arange(n) % 2
    weight = layer.weight.detach()
    return layer, x, y, weight[y] - weight[1 - y]


def reached(attack: Attack, ball: Ball) -> tuple[Tensor, Tensor]:
    """The margins that an attack gets to, and the smallest there are, from the support function."""
    layer, x, y, rows = linear()
    result = attack(layer, x, y, ball, stop=False)
    bias = (layer.bias[y] - layer.bias[1 - y]).detach()
    assert result.feasible.all()
    return result.margins, bias - ball.around(x).support(-rows[:, None])[:, 0]


class TestOptimum:
    @pytest.mark.parametrize("norm", NORMS)
    def test_one_step_is_enough_without_a_box(self, norm: Norm) -> None:
        torch.testing.assert_close(*reached(FGSM(), Ball(norm, EPS[norm])))

    def test_and_in_a_box_along_signs(self) -> None:
        for attack in (FGSM(), BIM(steps=5), MIM(steps=5), PGD(steps=10)):
            torch.testing.assert_close(*reached(attack, Ball("linf", 0.2, box=(0, 1))))

    @pytest.mark.parametrize("norm", NORMS)
    @pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
    def test_projected_steps_find_the_corner_of_ball_and_box(self, norm: Norm, loss: str) -> None:
        attack = PGD(steps=100, relative_step_size=0.2, final_step=0.01, loss=loss, sparsity=(1, 3))  # type: ignore[arg-type]
        margins, least = reached(attack, Ball(norm, EPS[norm], box=(0, 1)))
        assert bool((margins >= least - 1e-9).all())
        torch.testing.assert_close(margins, least, rtol=0.02, atol=0)

    @pytest.mark.parametrize("norm", NORMS)
    def test_radii_per_coordinate(self, norm: Norm) -> None:
        eps = 2 * EPS[norm] * torch.rand(1, 20, generator=torch.Generator().manual_seed(0)).double()
        eps[0, :3] = 0
        attack = PGD(steps=200, relative_step_size=0.1, final_step=0.01, sparsity=(1, 3))
        for box in (None, (0, 1)):
            margins, least = reached(attack, Ball(norm, eps, box=box))
            assert bool((margins >= least - 1e-9).all())
            torch.testing.assert_close(margins, least, rtol=0.03, atol=0)

    def test_boxes(self) -> None:
        layer, x, y, rows = linear()
        generator = torch.Generator().manual_seed(1)
        low, high = (torch.rand(x.shape, generator=generator).double() for _ in range(2))
        sets = Box(x - low, x + low)
        result = PGD(steps=20)(layer, sets.center, y, sets, stop=False)
        least = (layer.bias[y] - layer.bias[1 - y]).detach() - sets.support(-rows[:, None])[:, 0]
        torch.testing.assert_close(result.margins, least)
        assert high.shape == low.shape


class TestSteps:
    """What the model is asked about, by hand."""

    def asked(self, attack: Attack, ball: Ball, x: Tensor, weight: Tensor) -> list[Tensor]:
        """All points between the first, the input, and the last, the best once more."""
        seen: list[Tensor] = []

        def model(points: Tensor) -> Tensor:
            seen.append(points.detach().clone())
            rise = points @ weight
            return torch.stack([9 - rise, rise], 1)

        attack(model, x, torch.zeros(len(x), dtype=torch.int64), ball, stop=False)
        return seen[2:-1]

    def test_bim_takes_equal_parts_of_eps(self) -> None:
        x, weight = torch.tensor([[0.5, 0.5]]).double(), torch.tensor([1.0, -2.0]).double()
        points = torch.cat(self.asked(BIM(steps=4), Ball("linf", 0.2), x, weight))
        expected = [[0.5 + 0.05 * step, 0.5 - 0.05 * step] for step in range(5)]
        torch.testing.assert_close(points, torch.tensor(expected).double())

    def test_random_starts_fill_the_set_and_restarts_differ(self) -> None:
        x, weight = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)), torch.ones(4)
        points = self.asked(PGD(steps=1, restarts=2), Ball("linf", 0.3), x, weight)
        first, second = points[0] - x, points[2] - x
        for start in (first, second):
            assert 0.28 < float(start.abs().max()) <= 0.3
            assert abs(float(start.mean())) < 0.05
        assert not torch.isclose(first, second).any()

    def test_both_begins_at_the_input(self) -> None:
        x, weight = torch.rand(3, 4), torch.ones(4)
        points = self.asked(PGD(steps=1, restarts=2, start_from="both"), Ball("linf", 0.3), x, weight)
        assert torch.equal(points[0], x)
        assert not torch.isclose(points[2], x).any()

    def test_starts_of_the_caller_come_first(self) -> None:
        layer, x, y, _ = linear()
        seen: list[Tensor] = []

        def model(points: Tensor) -> Tensor:
            seen.append(points.detach().clone())
            return layer(points)

        start = (x + 0.05).clamp(0, 1)
        PGD(steps=1)(model, x, y, Ball("linf", 0.2, box=(0, 1)), start=start, stop=False)
        assert torch.equal(seen[2], start)

    def test_steps_shrink(self) -> None:
        x, weight = torch.tensor([[0.5]]).double(), torch.tensor([1.0]).double()
        attack = BIM(steps=4, step_size=0.1, final_step=0.2)
        points = torch.cat(self.asked(attack, Ball("linf", 9.0), x, weight))[:, 0]
        torch.testing.assert_close(points.diff(), torch.tensor([0.1, 0.08, 0.06, 0.04]).double())

    def test_momentum_is_a_decaying_sum_of_directions(self) -> None:
        """The gradient turns round at 0.5; the step does so later."""
        x = torch.tensor([[0.35]]).double()
        seen: list[float] = []

        def model(points: Tensor) -> Tensor:
            seen.append(float(points.detach()))
            rise = -(points[:, 0] - 0.5).abs()
            return torch.stack([1 - rise, rise], 1)

        for decay, expected in ((0.0, [0.35, 0.45, 0.55, 0.45, 0.55]), (1.0, [0.35, 0.45, 0.55, 0.65, 0.65])):
            seen.clear()
            MIM(steps=4, step_size=0.1, decay=decay)(model, x, torch.tensor([0]), Ball("linf", 9.0), stop=False)
            assert seen[2:-1] == pytest.approx(expected)

    def test_r_fgsm_takes_half_of_eps_at_random(self) -> None:
        x, weight = torch.full((200, 4), 0.5), torch.ones(4)
        x += torch.arange(200.0)[:, None] / 1e6
        start, end = self.asked(RandomFGSM(), Ball("linf", 0.2), x, weight)
        torch.testing.assert_close((start - x).abs(), torch.full_like(x, 0.1))
        assert 0.4 < float((start > x).float().mean()) < 0.6
        torch.testing.assert_close(end, start + 0.1)

    def test_uniform_fgsm_goes_beyond_and_is_projected(self) -> None:
        x, weight = torch.rand(100, 4, generator=torch.Generator().manual_seed(0)), torch.ones(4)
        start, end = self.asked(UniformFGSM(), Ball("linf", 0.2), x, weight)
        torch.testing.assert_close(end, torch.minimum(start + 0.25, x + 0.2))

    def test_l1_steps_have_random_sparsity(self) -> None:
        x, weight = torch.full((1, 40), 0.5).double(), torch.linspace(1, 2, 40).double()
        points = self.asked(BIM(steps=60, step_size=0.01, sparsity=(2, 5)), Ball("l1", 9.0), x, weight)
        counts = [int((after != before).sum()) for before, after in itertools.pairwise(points)]
        assert set(counts) == {2, 3, 4, 5}
        for before, after in itertools.pairwise(points):
            assert float((after - before).abs().sum()) == pytest.approx(0.01)

    def test_l1_brightens_black_images(self) -> None:
        """The rule that bans every coordinate at a side would not move at all."""
        x, weight = torch.zeros(1, 6).double(), torch.tensor([3.0, -9.0, 2.0, -8.0, 1.0, 0.0]).double()
        end = self.asked(FGSM(), Ball("l1", 0.5, box=(0, 1)), x, weight)[-1]
        assert end.tolist() == [[0.5, 0, 0, 0, 0, 0]]

    def test_fgsm_returns_its_point_even_where_it_is_worse(self) -> None:
        x = torch.tensor([[0.5]]).double()

        def model(points: Tensor) -> Tensor:
            rise = torch.where(points[:, 0] < 0.6, points[:, 0], -9.0)
            return torch.stack([2 - rise, rise], 1)

        result = FGSM()(model, x, torch.tensor([0]), Ball("linf", 0.2))
        assert float(result.examples) == pytest.approx(0.7)
        assert float(result.margins) == pytest.approx(20)


class TestStop:
    def test_inputs_that_are_fooled_leave(self) -> None:
        layer, x, y, _ = linear()
        ball = Ball("linf", 0.2, box=(0, 1))
        stopped, whole = (PGD(steps=10, restarts=3)(layer, x, y, ball, stop=stop) for stop in (True, False))
        assert bool((whole.forwards == 2 + 3 * 11).all())
        assert bool((stopped.forwards[stopped.success] < 2 + 3 * 11).all())
        assert torch.equal(stopped.success, whole.success)
        assert bool((whole.margins <= stopped.margins).all())
        wrong = layer(x).argmax(1) != y
        assert stopped.forwards[wrong].tolist() == [2] * int(wrong.sum())


class TestSettings:
    @pytest.mark.parametrize(
        ("attack", "settings", "name"),
        [
            (PGD, {"steps": 0}, "steps"),
            (PGD, {"restarts": 0}, "restarts"),
            (PGD, {"step_size": -0.1}, "step_size"),
            (PGD, {"step_size": float("nan")}, "step_size"),
            (PGD, {"relative_step_size": 0.0}, "relative_step_size"),
            (PGD, {"step_size": 0.1, "relative_step_size": 0.1}, "relative_step_size"),
            (PGD, {"start_from": "corner"}, "start_from"),
            (PGD, {"loss": "hinge"}, "loss"),
            (PGD, {"sparsity": (5, 4)}, "sparsity"),
            (PGD, {"sparsity": (0, 4)}, "sparsity"),
            (MIM, {"decay": -1.0}, "decay"),
            (FGSM, {"loss": "hinge"}, "loss"),
            (UniformFGSM, {"relative_step_size": 0.0}, "relative_step_size"),
            (RandomFGSM, {"share": 1.5}, "share"),
        ],
    )
    def test_that_cannot_be(self, attack: type[Attack], settings: dict[str, object], name: str) -> None:
        with pytest.raises(InvalidValue, match=f"^{name} = "):
            attack(**settings)

    @pytest.mark.parametrize(("settings"), [{"steps": 1.5}, {"steps": True}, {"step_size": "0.1"}, {"sparsity": 5}])
    def test_types(self, settings: dict[str, object]) -> None:
        with pytest.raises(InvalidType):
            PGD(**settings)  # type: ignore[arg-type]

    def test_r_fgsm_is_for_signs(self) -> None:
        layer, x, y, _ = linear()
        with pytest.raises(InvalidValue, match="R\\+FGSM steps along signs: use an l_inf ball"):
            RandomFGSM()(layer, x, y, Ball("l2", 0.1))


def test_a_radius_that_no_number_of_the_type_reaches() -> None:
    """Points would overflow, and an attack that finds none of them would make the model look robust."""
    x, y = torch.zeros(1, 2), torch.tensor([0])
    with pytest.raises(InvalidValue, match=r"^inputs = .*: reaches beyond what torch\.float32 holds"):
        PGD(steps=2)(lambda z: z, x, y, Ball("linf", 1e39))
    assert PGD(steps=2)(lambda z: z, x, y, Ball("linf", 1e39, box=(0, 1))).success.all()
    assert PGD(steps=2)(lambda z: z, x.double(), y, Ball("linf", 1e39)).success.all()
