"""Square: where its points lie, how they are made, and that the margin never rises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from verifix.attack import Square, Targeted
from verifix.attack.square import _peak
from verifix.certify import Rows
from verifix.errors import InvalidType, InvalidValue
from verifix.sets import Ball, Box, Wasserstein
from verifix.sets.base import Norm

BALLS = {"linf": Ball("linf", 0.15, (0, 1)), "l2": Ball("l2", 1.0, (0, 1)), "l1": Ball("l1", 4.0, (0, 1))}
SHAPES = {"colour": (3, 9, 9), "wide": (1, 6, 11), "rows": (2, 30), "flat": (40,), "tiny": (1, 1, 2), "one": (1,)}


class Asked:
    """Logits of a fixed smooth function of the input; remembers what it was asked."""

    def __init__(self, shape: tuple[int, ...], seed: int = 0, shift: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(4, int(np.prod(shape)), generator=generator, dtype=torch.float64)
        self.shift = torch.tensor([shift, 0.0, 0.0, 0.0], dtype=torch.float64)
        self.seen: list[Tensor] = []
        self.margins: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        logits = torch.stack([torch.tanh(row.flatten().double() - 0.5) @ self.weight.T for row in x]) + self.shift
        self.seen.append(x.clone())
        self.margins.append(logits[:, 0] - logits[:, 1:].amax(1))
        return logits


def images(shape: tuple[int, ...], n: int = 6, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64).to(dtype)
    return x, torch.zeros(n, dtype=torch.int64)


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_point_lies_in_the_set_and_the_best_is_kept(norm: Norm, shape: str, dtype: torch.dtype) -> None:
    x, y = images(SHAPES[shape], dtype=dtype)
    model, sets = Asked(SHAPES[shape], shift=30.0), BALLS[norm].around(x)
    result = Square(queries=60)(model, x, y, sets, stop=False)
    asked = model.seen[2:-1]
    assert len(asked) == 60 and (result.forwards == 62).all() and (result.backwards == 0).all()
    for points in asked:
        assert points.dtype == dtype and sets.contains(points).all()
    smallest = torch.stack(model.margins[1:]).amin(0)
    torch.testing.assert_close(result.margins, smallest, rtol=0, atol=0)
    assert result.feasible.all() and not result.no_gradient.any()


@pytest.mark.parametrize("norm", BALLS)
def test_each_step_changes_one_place_of_the_best_point_so_far(norm: Norm) -> None:
    """In l_inf one square, at the ends of the intervals; in l2 and l1 two, apart from a common factor."""
    shape = (2, 12, 12)
    x, y = images(shape)
    x = 0.3 + 0.4 * x  # nothing is cut off by the box
    model, ball = Asked(shape, shift=100.0), Ball(norm, 0.1, (0, 1))
    attack = Square(queries=200)
    attack(model, x, y, ball, stop=False)
    best, margin = model.seen[2], model.margins[2]
    moved = 0
    for query in range(1, 200):
        points, found = model.seen[2 + query], model.margins[2 + query]
        side = max(round((attack.covered(query) * 144) ** 0.5), 1 if norm == "linf" else 3)
        for i in range(len(x)):
            before, now = best[i] - x[i], points[i] - x[i]
            if norm == "linf":
                changed = (before != now).any(0)
                np.testing.assert_allclose(now.abs().numpy(), 0.1, atol=1e-12)
            else:
                kept = (before.abs() > 1e-6) & (now.abs() > 1e-6)
                if not kept.any():
                    continue
                ratio = (now[kept] / before[kept]).median()
                changed = ((now - ratio * before).abs() > 1e-9).any(0)
            rows, columns = changed.any(1).nonzero()[:, 0], changed.any(0).nonzero()[:, 0]
            moved += len(rows)
            if norm == "linf":
                assert int(rows[-1] - rows[0]) < side and int(columns[-1] - columns[0]) < side
            else:
                assert int(changed.sum()) <= 2 * side**2
        better = found < margin
        best = torch.where(better[:, None, None, None], points, best)
        margin = torch.where(better, found, margin)
    assert moved > 500


def test_the_start_has_vertical_stripes() -> None:
    x, y = images((3, 5, 7))
    model = Asked((3, 5, 7), shift=100.0)
    Square(queries=1)(model, 0.5 * x + 0.25, y, Ball("linf", 0.1))
    start = model.seen[2] - (0.5 * x + 0.25)
    np.testing.assert_allclose(start.numpy(), start[:, :, :1].expand_as(start).numpy(), atol=1e-12)
    assert 0.3 < (start > 0).double().mean() < 0.7


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_the_budget_is_used(norm: Norm) -> None:
    x, y = images((3, 10, 10))
    model, ball = Asked((3, 10, 10), shift=1e3), BALLS[norm]
    Square(queries=80)(model, x, y, ball, stop=False)
    sizes = torch.stack([ball.around(x).distance(points) for points in model.seen[2:-1]])
    assert (sizes > 0.97 * float(ball.eps)).double().mean() > 0.95


def test_share_of_pixels_falls_as_in_the_paper() -> None:
    square = Square(queries=10000, share=0.05)
    halvings = [query for query in range(1, 10000) if square.covered(query) < square.covered(query - 1)]
    assert halvings == [11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001]
    assert square.covered(1) == 0.05 and square.covered(9999) == 0.05 / 512
    short = Square(queries=1000, share=0.05)
    assert [short.covered(query) for query in (1, 2, 6, 999)] == [0.05, 0.025, 0.0125, 0.05 / 512]


def test_peaks_are_those_of_the_paper() -> None:
    """Equation 2: ring by ring, 1 in the middle ring is the sum of 1, 1/4, 1/9."""
    ring = [1 / 9, 1 / 4 + 1 / 9, 1 + 1 / 4 + 1 / 9]
    expected = [[ring[min(i, j, 4 - i, 4 - j)] for j in range(5)] for i in range(5)]
    np.testing.assert_allclose(_peak(5, 5).numpy(), expected)
    assert (_peak(3, 8) > 0).all() and _peak(3, 8).shape == (3, 8)


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("shape", ["colour", "flat"])
def test_an_input_alone_is_attacked_as_in_a_batch(norm: Norm, shape: str) -> None:
    x, y = images(SHAPES[shape])
    model, attack = Asked(SHAPES[shape], shift=2.0), Square(queries=80)
    together = attack(model, x, y, BALLS[norm], seed=9)
    assert together.success.any()
    assert torch.equal(attack(model, x, y, BALLS[norm], seed=9, batch=4).examples, together.examples)
    for i in range(len(x)):
        alone = attack(model, x[i : i + 1], y[i : i + 1], BALLS[norm], seed=9)
        assert torch.equal(alone.examples[0], together.examples[i]) and alone.forwards[0] == together.forwards[i]
    assert not torch.equal(attack(model, x, y, BALLS[norm], seed=8).examples, together.examples)


@pytest.mark.parametrize("norm", BALLS)
def test_more_queries_find_more_where_there_is_something_to_find(norm: Norm) -> None:
    x, _ = images((1, 8, 8), 30)
    model = Asked((1, 8, 8), seed=2)
    right = torch.cat([model(x).argmax(1)])
    found = [Square(queries=queries)(model, x, right, BALLS[norm]) for queries in (2, 400)]
    assert found[0].success.sum() < found[1].success.sum()
    for result in found:
        assert torch.equal(result.success, model(result.examples).argmax(1) != right)


def test_boxes_and_radii_of_coordinates() -> None:
    x, y = images((1, 6, 6))
    model = Asked((1, 6, 6), shift=30.0)
    box = Box(x - 0.1, x + torch.linspace(0, 0.2, 36, dtype=torch.float64).reshape(1, 6, 6))
    result = Square(queries=40)(model, x, y, box, stop=False)
    assert box.contains(result.examples).all() and (result.examples != box.center).any()
    eps = torch.linspace(0, 1, 36, dtype=torch.float64).reshape(1, 1, 6, 6)
    for norm in BALLS:
        sets = Ball(norm, eps, (0, 1)).around(x)
        examples = Square(queries=40)(model, x, y, sets, stop=False).examples
        assert sets.contains(examples).all() and torch.equal(examples[..., 0, 0], x[..., 0, 0])
        assert (examples != x).any(dim=(1, 2, 3)).all()


def test_any_criterion() -> None:
    x, y = images((1, 8, 8), 20)
    model = Asked((1, 8, 8))
    result = Square(queries=200)(model, x, Targeted(torch.full((20,), 2), y), Ball("linf", 0.3, (0, 1)))
    assert result.success.any()
    assert (model(result.examples)[result.success].argmax(1) == 2).all()
    rows = Rows(torch.eye(4, dtype=torch.float64)[:1])
    result = Square(queries=200)(model, x, rows, Ball("linf", 0.3, (0, 1)))
    assert torch.equal(result.success, model(result.examples)[:, 0] < 0)


def test_starts_that_are_given() -> None:
    x, y = images((1, 8, 8))
    model, ball = Asked((1, 8, 8), shift=30.0), BALLS["linf"]
    start = ball.around(x).hull()[0]
    Square(queries=3)(model, x, y, ball, start=start)
    assert torch.equal(model.seen[2], start)


def test_what_cannot_be() -> None:
    x, y = images((1, 8, 8))
    model = Asked((1, 8, 8))
    with pytest.raises(InvalidValue, match="queries"):
        Square(queries=0)
    with pytest.raises(InvalidType, match="queries"):
        Square(queries=1.5)  # type: ignore[arg-type]
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(InvalidValue, match="share"):
            Square(share=share)
    with pytest.raises(InvalidValue, match="lp balls and boxes"):
        Square()(model, x, y, Wasserstein(0.1).around(x))
    with pytest.raises(InvalidValue, match="images"):
        Square()(model, x[:, None], y, BALLS["linf"])
