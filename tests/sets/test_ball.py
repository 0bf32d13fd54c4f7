"""Balls: what they accept, their hulls, membership, selection and casting."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor

from tests.sets.oracles import Case, cases
from verifix.errors import InvalidType, InvalidValue
from verifix.sets import Ball, LpBall
from verifix.sets.ball import NORMS, Norm


@pytest.mark.parametrize(
    ("spelling", "norm"),
    [
        ("Linf", "linf"),
        ("inf", "linf"),
        (math.inf, "linf"),
        ("L2", "l2"),
        ("2", "l2"),
        (2, "l2"),
        (2.0, "l2"),
        ("1", "l1"),
        (1, "l1"),
    ],
)
def test_norms_are_understood_in_every_usual_spelling(spelling: Any, norm: Norm) -> None:
    assert Ball(spelling, 0.1).norm == norm


@pytest.mark.parametrize("norm", ["l3", 3, -math.inf, ["l2"], None, True, ""])
def test_unknown_norm(norm: Any) -> None:
    with pytest.raises(InvalidValue, match=r"^norm = .*: choose one of linf, l2, l1$"):
        Ball(norm, 0.1)


@pytest.mark.parametrize(
    "eps", [-0.1, math.nan, math.inf, torch.tensor([0.1, -1e-30]), torch.tensor([[math.nan, 0.0]])]
)
def test_eps_that_is_no_radius(eps: float | Tensor) -> None:
    with pytest.raises(InvalidValue, match=r"^eps = (-0\.1|-1.*e-30|nan|inf): must be finite and >= 0$"):
        Ball("l2", eps)


@pytest.mark.parametrize("eps", ["0.1", None, True, [0.1]])
def test_eps_that_is_no_number(eps: Any) -> None:
    with pytest.raises(InvalidType, match=rf"^eps is a {type(eps).__name__}: pass a number or a torch.Tensor$"):
        Ball("l2", eps)


@pytest.mark.parametrize("shape", [(1,), (3,), (4,), (2, 3), (2, 1, 1), (5, 1, 3, 4), (2, 1, 3, 5)])
def test_eps_that_does_not_fit(shape: tuple[int, ...]) -> None:
    message = r"^eps = tensor of shape .*: must be a number, or fit the inputs \(2, 1, 3, 4\) axis by axis$"
    with pytest.raises(InvalidValue, match=message):
        Ball("linf", torch.ones(shape)).around(torch.zeros(2, 1, 3, 4))


@pytest.mark.parametrize("shape", [(), (2,), (2, 1, 1, 1), (1, 1, 3, 4), (1, 1, 1, 4), (2, 1, 3, 4)])
def test_eps_that_fits(shape: tuple[int, ...]) -> None:
    eps = torch.rand(shape, dtype=torch.float64)
    x = torch.zeros(2, 1, 3, 4, dtype=torch.float64)
    upper = Ball("linf", eps).around(x).hull()[1]
    assert torch.equal(upper, (eps.reshape(2, 1, 1, 1) if shape == (2,) else eps).expand_as(x))


@pytest.mark.parametrize(
    ("box", "shown"),
    [
        ((1, 0), r"\[1, 0\]"),
        ((0, math.nan), r"\[0, nan\]"),
        ((math.nan, 1), r"\[nan, 1\]"),
        ((torch.zeros(2), torch.tensor([1.0, -1.0])), r"\[0, -1\] at \(1,\)"),
        ((torch.zeros(2), -1.0), r"\[0, -1\] at \(0,\)"),
    ],
)
def test_box_upside_down(box: Any, shown: str) -> None:
    with pytest.raises(InvalidValue, match=rf"^box = {shown}: needs lower <= upper, no NaN$"):
        Ball("linf", 0.1, box)


@pytest.mark.parametrize("box", [1.0, (0, 1, 2), (0,), "01", (None, 1), ("a", "b"), torch.tensor([0.0, 1.0])])
def test_box_that_is_no_pair_of_numbers(box: Any) -> None:
    message = rf"^box is a {type(box).__name__}: pass a pair \(lower, upper\) of numbers or tensors$"
    with pytest.raises(InvalidType, match=message):
        Ball("linf", 0.1, box)


def test_box_whose_sides_do_not_fit() -> None:
    with pytest.raises(InvalidValue, match=r"^box = sides of shapes \(2,\) and \(3,\): must fit each other$"):
        Ball("linf", 0.1, (torch.zeros(2), torch.ones(3)))
    with pytest.raises(InvalidValue, match=r"^box = tensor of shape \(4,\): must be a number, or fit the inputs"):
        Ball("linf", 0.1, (torch.zeros(4), torch.ones(4))).around(torch.zeros(2, 3))


def test_inputs_outside_the_box_are_counted_and_the_cause_is_guessed() -> None:
    x = torch.tensor([[0.5, 0.5], [-2.0, 0.0], [0.0, 2.75], [1.0, 0.0]])
    message = r"^x = 2 of 4 inputs outside the box \[0, 1\] \(values from -2 to 2.75\): .*normalised data"
    with pytest.raises(InvalidValue, match=message):
        Ball("l2", 0.1, box=(0, 1)).around(x)


def test_normalised_data_is_told_from_raw_data_per_channel() -> None:
    mean, std = torch.tensor([0.5, 0.25]).reshape(2, 1, 1), torch.tensor([0.25, 0.5]).reshape(2, 1, 1)
    x = (torch.rand(3, 2, 4, 4) - mean) / std
    lower, upper = Ball("linf", (0.1 / std)[None], box=((0 - mean) / std, (1 - mean) / std)).around(x).hull()
    torch.testing.assert_close(lower, (((x * std + mean) - 0.1).clamp(min=0) - mean) / std)
    torch.testing.assert_close(upper, (((x * std + mean) + 0.1).clamp(max=1) - mean) / std)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([[0.0]], InvalidType, r"^x is a list: pass a torch.Tensor of shape \(n, \.\.\.\)$"),
        (torch.zeros(2, 3, dtype=torch.uint8), InvalidType, r"^x is a Tensor: .*not torch.uint8 \(for example x.fl"),
        (torch.zeros(3), InvalidValue, r"^x = tensor of shape \(3,\): must be a batch"),
        (torch.tensor([[0.0], [math.nan]]), InvalidValue, r"^x = 1 of 2 inputs with NaN or infinity \(first: 1\)"),
        (torch.tensor([[-math.inf], [0.0]]), InvalidValue, r"^x = 1 of 2 inputs with NaN or infinity \(first: 0\)"),
    ],
)
def test_inputs_that_cannot_be(x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Ball("l1", 0.1).around(x)


@given(case=cases())
def test_hull_is_the_extremes_of_every_coordinate(case: Case) -> None:
    sets = case.sets
    lower, upper = sets.hull()
    units = torch.eye(case.x.shape[1], dtype=torch.float64)[None]
    low, high = sets.extrema(units)
    torch.testing.assert_close(lower, low, rtol=0, atol=1e-13)
    torch.testing.assert_close(upper, high, rtol=0, atol=1e-13)
    torch.testing.assert_close(sets.least(case.rows), -sets.support(-case.rows), rtol=0, atol=1e-12)
    assert (lower <= case.x).all()
    assert (case.x <= upper).all()


@given(case=cases())
def test_magnitude_bounds_the_points_and_what_the_support_adds_up(case: Case) -> None:
    sets = case.sets
    magnitude = sets.magnitude()
    lower, upper = sets.hull()
    assert torch.isfinite(magnitude).all()
    assert (magnitude >= torch.maximum(lower.abs(), upper.abs())).all()
    size = (case.rows.abs() * magnitude[:, None]).sum(2)
    assert (size >= sets.support(case.rows).abs()).all()


@pytest.mark.parametrize("norm", NORMS)
def test_contains_decides_at_the_boundary(norm: Norm) -> None:
    sets = Ball(norm, 0.5, box=(0, 1)).around(torch.tensor([[0.25, 0.5]], dtype=torch.float64))

    def inside(*x: float, tolerance: float = 0.0) -> bool:
        return bool(sets.contains(torch.tensor([x], dtype=torch.float64), tolerance))

    assert inside(0.25, 0.5)
    assert inside(0.75, 0.5)
    assert inside(0.25, 1.0)
    assert not inside(math.nextafter(0.75, 1), 0.5)
    assert inside(0.7500001, 0.5, tolerance=1e-6)
    assert not inside(0.7501, 0.5, tolerance=1e-6)
    assert not inside(-1e-9, 0.5)
    assert not inside(0.25, 1 + 1e-9)
    assert inside(-1e-9, 0.5, tolerance=1e-8)
    assert not inside(math.nan, 0.5)
    assert not inside(math.nan, 0.5, tolerance=1.0)
    assert inside(0.75, 1.0) == (norm == "linf")
    assert inside(0.55, 0.85) == (norm != "l1")


@pytest.mark.parametrize("norm", NORMS)
def test_a_radius_of_zero_fixes_its_coordinate(norm: Norm) -> None:
    x = torch.tensor([[0.5, 0.5]])
    sets = Ball(norm, torch.tensor([[0.0, 0.25]])).around(x)
    assert sets.contains(torch.tensor([[0.5, 0.75]])).tolist() == [True]
    assert sets.contains(torch.tensor([[0.5000001, 0.5]])).tolist() == [False]
    assert sets.support(torch.tensor([[[8.0, 0.0]]])).tolist() == [[4.0]]
    nothing = Ball(norm, 0.0).around(x)
    assert nothing.contains(x).all()
    assert not nothing.contains(x + 1e-6).any()
    assert not nothing.contains(x + 1.0, tolerance=0.5).any()


@pytest.mark.parametrize("index", [slice(1, 3), torch.tensor([2, 0]), torch.tensor([False, True, False]), slice(0, 0)])
@pytest.mark.parametrize("eps", [0.25, torch.tensor([0.1, 0.2, 0.3]), torch.rand(3, 4), torch.rand(1, 4)])
@pytest.mark.parametrize("box", [None, (0.0, 1.0), (torch.zeros(3, 4), torch.ones(3, 4)), (torch.zeros(4), 1.0)])
def test_select_picks_inputs_with_their_radii_and_boxes(index: Tensor | slice, eps: float | Tensor, box: Any) -> None:
    for norm in NORMS:
        sets = Ball(norm, eps, box).around(torch.rand(3, 4))
        rows = torch.randn(1, 2, 4)
        part = sets.select(index)
        assert isinstance(part, LpBall)
        assert torch.equal(part.center, sets.center[index])
        assert len(part) == len(part.center)
        assert torch.equal(part.hull()[0], sets.hull()[0][index])
        torch.testing.assert_close(part.support(rows), sets.support(rows)[index])
        torch.testing.assert_close(part.magnitude(), sets.magnitude()[index])


@pytest.mark.parametrize("norm", NORMS)
def test_to_another_dtype_keeps_the_radius_exact(norm: Norm) -> None:
    sets = Ball(norm, 0.1, box=(0, 1)).around(torch.rand(2, 3)).to(torch.float64)
    assert sets.center.dtype == torch.float64
    assert sets.eps.item() == 0.1
    assert sets.support(torch.ones(1, 1, 3, dtype=torch.float64)).dtype == torch.float64
    assert sets.to(torch.device("cpu")).center.dtype == torch.float64
    assert sets.to(torch.float32).center.dtype == torch.float32


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [0.0, 0.05])
def test_a_point_on_a_side_that_float32_cannot_hold_stays_inside_in_float64(norm: Norm, eps: float) -> None:
    x = torch.full((1, 2), 0.3)  # as a float32, a little above 0.3
    assert (x.double() > 0.3).all()
    sets = Ball(norm, eps, box=(0, 0.3)).around(x)
    for view in (sets, sets.to(torch.float64)):
        assert view.contains(view.center).all()
        lower, upper = view.hull()
        assert (lower <= view.center).all()
        assert (view.center <= upper).all()
        units = torch.eye(2, dtype=view.center.dtype)[None]
        assert (view.support(units) >= view.center).all()


def test_inputs_that_require_gradients_keep_them() -> None:
    x = torch.rand(2, 3, requires_grad=True)
    sets = Ball("linf", 0.1).around(x)
    (gradient,) = torch.autograd.grad(sets.support(torch.ones(1, 1, 3)).sum(), x)
    assert torch.equal(gradient, torch.ones(2, 3))


def test_no_inputs() -> None:
    for norm in NORMS:
        for eps in (0.1, torch.zeros(0)):
            sets = Ball(norm, eps, box=(0, 1)).around(torch.zeros(0, 2, 3))
            assert (len(sets), sets.shape) == (0, (2, 3))
            assert sets.support(torch.zeros(1, 4, 2, 3)).shape == (0, 4)
            assert sets.project(torch.zeros(0, 2, 3)).shape == (0, 2, 3)
            assert sets.contains(torch.zeros(0, 2, 3)).shape == (0,)


def test_representation_tells_what_it_is() -> None:
    sets = Ball("l2", 0.1, box=(0, 1)).around(torch.zeros(2, 3))
    assert repr(sets) == "LpBall(n=2, shape=(3,), norm='l2', box=True)"
    assert "box=False" in repr(Ball("l2", 0.1).around(torch.zeros(2, 3)))
