"""The Wasserstein threat model: what it refuses, and what it says of itself."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from verifix.errors import InvalidType, InvalidValue
from verifix.sets import Ball, Union, Wasserstein
from verifix.sets.wasserstein.ball import WassersteinBall
from verifix.sets.wasserstein.ground import GROUNDS, window_cost, window_offsets

X = torch.tensor([[[[0.0, 0.5], [1.0, 0.25]]], [[[0.0, 0.0], [0.0, 1.0]]]])


def test_offsets_and_costs() -> None:
    offsets = window_offsets(5)
    assert offsets[0].tolist() == [-2, -2]
    assert offsets[12].tolist() == [0, 0]
    assert offsets[13].tolist() == [0, 1]
    assert window_cost("euclidean", 5)[0] == math.sqrt(8)
    assert window_cost("squared-euclidean", 5)[0] == 8
    assert window_cost("l1", 5)[0] == 4
    for ground in GROUNDS:
        assert window_cost(ground, 7)[24] == 0
        assert window_cost(ground, 1).tolist() == [0]
        assert torch.equal(window_cost(ground, 5), window_cost(ground, 5).flip(0))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"eps": -0.1}, InvalidValue, "eps = -0.1"),
        ({"eps": math.nan}, InvalidValue, "eps = nan"),
        ({"eps": math.inf}, InvalidValue, "eps = inf"),
        ({"eps": torch.tensor([0.1, -1.0])}, InvalidValue, "eps = -1.0"),
        ({"eps": torch.zeros(2, 2)}, InvalidValue, r"must be a number, or \(n,\)"),
        ({"eps": "much"}, InvalidType, "eps is a str"),
        ({"eps": True}, InvalidType, "eps is a bool"),
        ({"window": 4}, InvalidValue, "window = 4: must be an odd number"),
        ({"window": 0}, InvalidValue, "window = 0"),
        ({"window": -3}, InvalidValue, "window = -3"),
        ({"window": 3.0}, InvalidValue, "window = 3.0"),
        ({"window": None}, InvalidValue, "transport = local needs an odd window"),
        ({"ground": "l2"}, InvalidValue, "choose one of euclidean, squared-euclidean, l1"),
        ({"mass": "all"}, InvalidValue, "choose one of normalised, raw"),
        ({"variant": "box"}, InvalidValue, "choose one of balanced, balanced-box, clamp-after"),
        ({"transport": "global"}, InvalidValue, "choose one of local, flow"),
        ({"transport": "flow"}, InvalidValue, "give window=None"),
        ({"transport": "flow", "window": None}, InvalidValue, "give ground='l1'"),
        ({"box": (0.1, 1)}, InvalidValue, "lower <= 0 < upper"),
        ({"box": (0, 0)}, InvalidValue, "lower <= 0 < upper"),
        ({"box": (0, math.inf)}, InvalidValue, "lower <= 0 < upper"),
        ({"box": (0, math.nan)}, InvalidValue, "lower <= 0 < upper"),
        ({"box": (torch.zeros(2), 1)}, InvalidType, "a pair"),
        ({"box": 1}, InvalidType, "a pair"),
    ],
)
def test_what_cannot_be(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Wasserstein(**{"eps": 0.1, **arguments})


@pytest.mark.parametrize(
    ("x", "arguments", "error", "message"),
    [
        (X[0], {}, InvalidValue, r"must be images \(n, C, H, W\)"),
        (-X, {}, InvalidValue, r"2 of 2 images with negative pixels \(first: 0\)"),
        (X * torch.tensor([1.0, 0.0])[:, None, None, None], {}, InvalidValue, "image 1 has no mass"),
        (X / 0, {}, InvalidValue, "NaN or infinity"),
        (X.int(), {}, InvalidType, "floating-point"),
        (2 * X, {"variant": "balanced-box"}, InvalidValue, r"2 of 2 inputs outside the box \[0, 1\]"),
        (2 * X, {"variant": "clamp-after"}, InvalidValue, "outside the box"),
        (X, {"eps": torch.tensor([0.1, 0.2, 0.3])}, InvalidValue, r"must be a number, or \(2,\) for 2 images"),
    ],
)
def test_images_that_cannot_be(
    x: torch.Tensor, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Wasserstein(**{"eps": 0.1, **arguments}).around(x)


def test_images_without_mass_are_points_where_the_budget_is_not_a_fraction() -> None:
    ball = Wasserstein(eps=2.0, mass="raw").around(torch.zeros(1, 1, 3, 3))
    assert ball.budget.tolist() == [2.0]
    assert all(torch.equal(side, ball.center) for side in ball.hull())
    assert ball.support(torch.randn(1, 4, 1, 3, 3)).tolist() == [[0.0] * 4]


def test_budgets() -> None:
    assert Wasserstein(0.5).around(X).budget.tolist() == [0.875, 0.5]
    assert Wasserstein(0.5, mass="raw").around(X).budget.tolist() == [0.5, 0.5]
    eps = torch.tensor([0.5, 1.0])
    assert Wasserstein(eps).around(X).budget.tolist() == [0.875, 1.0]
    channels = X.reshape(1, 2, 2, 2)
    assert Wasserstein(1.0).around(channels).budget.tolist() == [2.75], "channels share one budget"
    assert Wasserstein(0.5).around(X).with_eps(torch.tensor([0.0, 2.0])).budget.tolist() == [0.0, 2.0]


def test_mass_does_not_depend_on_the_batch() -> None:
    x = torch.rand(7, 3, 9, 9)
    together = Wasserstein(0.1).around(x).budget
    apart = [float(Wasserstein(0.1).around(x[i : i + 1]).budget) for i in range(7)]
    assert together.tolist() == apart


def test_select_and_cast() -> None:
    ball = Wasserstein(torch.tensor([0.5, 1.0]), variant="clamp-after", box=(0, 2)).around(X)
    second = ball.select(torch.tensor([1]))
    assert second.budget.tolist() == [1.0]
    assert torch.equal(second.center, X[1:])
    assert second.box is not None
    assert second.box[1].tolist() == [[[[2.0]]]]
    assert len(ball.select(slice(0, 0))) == 0
    double = ball.to(torch.float64)
    assert double.center.dtype == torch.float64
    assert torch.equal(double.budget, ball.budget)
    assert "clamp-after" in repr(ball)


def test_a_side_that_is_not_a_number_of_the_type() -> None:
    """0.3 in float32 is above 0.3: inside as far as the type can tell, and the box holds it."""
    x = torch.full((1, 1, 2, 2), 0.3)
    ball = Wasserstein(0.1, variant="balanced-box", box=(0, 0.3)).around(x)
    assert ball.box is not None
    assert float(ball.box[1]) == float(x.double().max()) > 0.3


def test_settings() -> None:
    assert Wasserstein(0.1).settings() == {
        "norm": "wasserstein",
        "eps": 0.1,
        "box": None,
        "ground": "euclidean",
        "window": 5,
        "mass": "normalised",
        "variant": "balanced",
        "transport": "local",
    }
    clamped = Wasserstein(torch.tensor([1.0]), variant="clamp-after").settings()
    assert clamped["eps"] == [1.0]
    assert clamped["box"] == [0.0, 1.0]


def test_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the type holds every point is known without the hull, unless the mass is beyond the type."""
    x = torch.full((1, 1, 2, 4), 1e38)
    assert Wasserstein(1e-3).around(x).finite()
    assert not Wasserstein(9.0).around(x).finite()
    assert Wasserstein(9.0).around(x.double()).finite()
    assert not Union(Ball("linf", 1e38), Wasserstein(9.0)).around(x).finite()
    monkeypatch.setattr(WassersteinBall, "hull", lambda ball: pytest.fail("asked for the hull"))
    assert Wasserstein(9.0).around(x / 10).finite()
    assert Union(Ball("linf", 0.1), Wasserstein(9.0)).around(x / 10).finite()


@pytest.mark.parametrize(
    ("method", "name"), [("support", "g"), ("maximiser", "g"), ("project", "v"), ("distance", "z"), ("contains", "z")]
)
def test_the_argument_that_is_wrong_is_named(method: str, name: str) -> None:
    x = torch.rand(2, 1, 4, 4)
    call = getattr(Wasserstein(0.1), method)
    with pytest.raises(InvalidValue, match=rf"^{name} = tensor of shape \(1, 1, 4, 4\): must be \(2, 1, 4, 4\)$"):
        call(x, x[:1])
    with pytest.raises(InvalidType, match=rf"^{name} is a Tensor: pass a floating-point tensor, not torch.int64"):
        call(x, x.long())
    with pytest.raises(InvalidType, match=rf"^{name} is a list: pass a torch.Tensor of shape"):
        call(x, x.tolist())


def test_reach() -> None:
    """From there on, the budget forbids nothing."""
    for threat in (
        Wasserstein(0.1),
        Wasserstein(0.1, mass="raw", window=3),
        Wasserstein(0.1, ground="l1", window=None, transport="flow"),
    ):
        ball = threat.around(X)
        rows = torch.randn(1, 3, *X.shape[1:])
        free = ball.with_eps(1000 * ball.reach).support(rows)
        torch.testing.assert_close(ball.with_eps(ball.reach).support(rows), free)
        assert (ball.with_eps(0.2 * ball.reach).support(rows) <= free).all()
