"""The largest certified radius: against closed forms, certificates and bisections."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import verifix as vx
from tests.certify.examples import digits, linear
from verifix.errors import InvalidType, InvalidValue
from verifix.sets.ball import NORMS
from verifix.sets.base import Norm


def exact_radius(weight: list[float], bias: float, point: list[float], norm: Norm) -> Fraction:
    """Of a linear form at a point, squared for l2: the distance to where it vanishes."""
    w = [Fraction(value) for value in weight]
    value = sum((a * Fraction(b) for a, b in zip(w, point, strict=True)), Fraction(bias))
    size = {"linf": sum(map(abs, w)), "l1": max(map(abs, w)), "l2": sum(a * a for a in w)}[norm]
    return value * value / size if norm == "l2" else abs(value) / size


numbers = st.floats(-4, 4, width=32).filter(lambda value: value == 0 or abs(value) > 1e-6)


@settings(max_examples=40)
@given(
    st.lists(numbers, min_size=3, max_size=3).filter(lambda w: max(map(abs, w)) > 0.1),
    numbers,
    st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=12),
    st.sampled_from(NORMS),
)
def test_linear_networks_in_rational_arithmetic(
    weight: list[float], bias: float, points: list[list[float]], norm: Norm
) -> None:
    """The distance to the hyperplane is never exceeded, and missed by no more than the tolerance."""
    model = linear([weight, [0.0, 0.0, 0.0]], [bias, 0.0])
    found = vx.radius(model, torch.tensor(points), norm=norm, method="cap")
    for point, eps, verdict in zip(points, found.radii.tolist(), found.verdicts.tolist(), strict=True):
        wanted = exact_radius(weight, bias, point, norm)
        radius = Fraction(eps) ** 2 if norm == "l2" else Fraction(eps)
        assert radius < wanted or radius == wanted == 0
        assert verdict == "verified" or radius == 0
        if wanted > Fraction(1, 10**6):
            assert radius >= wanted * (1 - Fraction(3, 10**5))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "cap", "crown", "cap+ibp", "crown+cap+crown-ibp"])
def test_certified_there_and_nowhere_above(norm: Norm, box: tuple[float, float] | None, method: str) -> None:
    model, x, _ = digits()
    found = vx.radius(model, x, norm=norm, box=box, method=method)
    assert found.verdicts.tolist() == ["verified"] * 24
    assert torch.equal(found.predictions, model(x).argmax(1))
    assert (found.radii > 0).all()
    assert (found.uncertified <= found.radii * (1 + 1e-5)).all()
    assert found.evaluations.double().mean() <= 8
    own = found.predictions
    assert vx.certify(model, x, own, vx.Ball(norm, found.radii, box), method).verified.all()
    assert not vx.certify(model, x, own, vx.Ball(norm, found.uncertified, box), method).verified.any()
    above = vx.certify(model, x, own, vx.Ball(norm, found.radii * (1 + 1e-4), box), method)
    assert not above.verified.any()


@pytest.mark.parametrize("method", ["ibp", "cap", "crown"])
def test_equal_to_a_bisection(method: str) -> None:
    model, x, _ = digits()
    found = vx.radius(model, x, method=method)
    low, high = torch.zeros(24).double(), torch.ones(24).double()
    for _ in range(40):
        middle = (low + high) / 2
        verified = vx.certify(model, x, found.predictions, vx.Ball("linf", middle), method).verified
        low, high = torch.where(verified, middle, low), torch.where(verified, high, middle)
    torch.testing.assert_close(found.radii, low, rtol=1.1e-5, atol=1e-11)


def test_given_labels() -> None:
    model, x, y = digits()
    own, given_labels = vx.radius(model, x), vx.radius(model, x, y)
    wrong = torch.from_numpy(given_labels.verdicts == "falsified")
    assert torch.equal(wrong, model(x).argmax(1) != y)
    assert wrong.sum() == 5
    assert not given_labels.radii[wrong].any()
    assert not given_labels.evaluations[wrong].any()
    torch.testing.assert_close(given_labels.radii[~wrong], own.radii[~wrong], rtol=1e-5, atol=0)
    assert vx.certify(model, x, y, vx.Ball("linf", given_labels.radii)).verified.equal(~wrong)


def test_ties_and_margins_below_the_rounding_are_unknown() -> None:
    model = linear([[1.0, 0.0], [0.0, 1.0]])
    x = torch.tensor([[0.5, 0.5], [0.5, 0.25], [1.0, 0.0]])
    found = vx.radius(model, x)
    assert found.verdicts.tolist() == ["unknown", "verified", "verified"]
    assert found.radii[0] == 0
    assert found.uncertified[0] == 0
    assert found.evaluations[0] == 1


def test_a_tie_in_float32_alone_is_none() -> None:
    model = linear([[1.0, 2.0**-40], [1.0, 0.0]])
    found = vx.radius(model, torch.tensor([[1.0, 1.0]]), norm="l2")
    assert found.verdicts.tolist() == ["verified"]
    assert found.radii.item() == pytest.approx(1.0, rel=2e-2)  # nearly all of the margin is rounding
    assert found.radii.item() < 1


@pytest.mark.parametrize(("norm", "reach"), [("linf", 0.75), ("l2", math.hypot(0.75, 0.5)), ("l1", 1.25)])
def test_what_is_certified_everywhere_reaches_the_farthest_corner(norm: Norm, reach: float) -> None:
    model, x = linear([[0.0, 0.0], [0.0, 0.0]], [1.0, 0.0]), torch.tensor([[0.25, 0.5]])
    found = vx.radius(model, x, norm=norm, box=(0, 1))
    assert found.radii.item() == pytest.approx(reach, rel=1e-9)
    assert found.radii.item() >= reach
    assert found.uncertified.item() == math.inf
    assert found.verdicts.tolist() == ["verified"]
    corners = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    assert vx.Ball(norm, found.radii.item(), (0, 1)).around(x.expand(4, 2)).contains(corners).all()


def test_largest_radius_to_try() -> None:
    model, x = linear([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.25, 0.5], [3.0, 0.0]])
    found = vx.radius(model, x, max_eps=1.0)
    assert found.radii[1] == 1.0
    assert found.uncertified[1] == math.inf
    assert found.radii[0].item() == pytest.approx(0.25, rel=1e-5)
    assert vx.radius(linear([[0.0], [0.0]], [1.0, 0.0]), torch.zeros(1, 1)).radii.item() == 2.0**20


def test_a_box_of_its_own_for_each_input() -> None:
    model, x = linear([[1.0], [0.0]]), torch.tensor([[0.5], [0.5]])
    box = torch.tensor([[0.4], [0.0]]), torch.tensor([[0.5], [0.9]])
    found = vx.radius(model, x, box=box)
    assert found.uncertified[0] == math.inf
    assert found.radii.tolist() == pytest.approx([0.1, 0.5], rel=1e-5)


def test_a_box_that_is_a_point() -> None:
    model, x = linear([[1.0], [0.0]]), torch.tensor([[0.5], [0.0]])
    found = vx.radius(model, x, box=(x, x))
    assert found.verdicts.tolist() == ["verified", "unknown"]
    assert found.radii.tolist() == [0.0, 0.0]
    assert found.uncertified.tolist() == [math.inf, 0.0]


def test_outputs_that_overflow_are_unknown() -> None:
    model = nn.Sequential(*[linear([[1e30]]) for _ in range(2)], linear([[1.0], [0.0]]))
    found = vx.radius(model, torch.tensor([[1.0], [1e-30]]))
    assert found.verdicts.tolist()[0] == "unknown"
    assert found.radii[0] == 0
    assert found.evaluations[0] == 0


def test_bounds_that_overflow_at_large_radii() -> None:
    """Far out the bounds are infinite or NaN; the search comes back from there."""
    layers = [linear([[1e18, 0.0], [0.0, 1e18]], [-1e18, 0.0]) for _ in range(6)]
    model = nn.Sequential(*[each for layer in layers for each in (layer, nn.ReLU())], nn.Linear(2, 2)).double()
    with torch.no_grad():
        model[-1].weight.zero_()
        model[-1].weight[1, 0] = -1.0
        model[-1].bias.copy_(torch.tensor([1.0, 0.0]))
    x = torch.tensor([[0.5, 1e-30]], dtype=torch.float64)
    found = vx.radius(model, x, method="cap", max_eps=1e250)
    assert found.verdicts.tolist() == ["verified"]
    assert vx.certify(model, x, found.predictions, vx.Ball("linf", found.radii), "cap").verified.all()
    if math.isfinite(found.uncertified.item()):
        assert found.uncertified.item() <= found.radii.item() * (1 + 1e-5)


def test_one_class() -> None:
    found = vx.radius(linear([[1.0, -1.0]]), torch.rand(2, 2), max_eps=8.0)
    assert found.radii.tolist() == [8.0, 8.0]


@pytest.mark.parametrize("tolerance", [1e-9, 1e-3, 1.0])
def test_tolerance(tolerance: float) -> None:
    model, x, _ = digits(6)
    found = vx.radius(model, x, tolerance=tolerance)
    assert (found.uncertified <= found.radii * (1 + tolerance)).all()
    best = vx.radius(model, x, tolerance=1e-9)
    assert (best.uncertified >= found.radii).all()


def test_a_graph_and_float64() -> None:
    model, x, _ = digits()
    graph = vx.capture(model, x[:1])
    wanted = vx.radius(model, x)
    assert torch.equal(vx.radius(graph, x).radii, wanted.radii)
    double = vx.radius(model.double(), x.double())
    torch.testing.assert_close(double.radii, wanted.radii, rtol=1e-5, atol=0)


def test_no_inputs() -> None:
    found = vx.radius(nn.Linear(2, 2), torch.zeros(0, 2))
    assert found.radii.shape == found.uncertified.shape == found.evaluations.shape == found.verdicts.shape == (0,)


def test_inputs_and_gradients_are_left_alone() -> None:
    model = nn.Sequential(nn.LeakyReLU(0.1, inplace=True), linear([[1.0, 0.0], [0.0, 1.0]]))
    x = torch.tensor([[-1.0, 0.5], [0.5, -2.0]], requires_grad=True)
    before = x.detach().clone()
    found = vx.radius(model, x)
    assert torch.equal(x, before)
    assert not found.radii.requires_grad
    assert found.verdicts.tolist() == ["verified", "verified"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": [[0.0, 0.0]]}, InvalidType, r"^x is a list: pass a torch.Tensor"),
        ({"x": torch.tensor([[0.0, math.nan]])}, InvalidValue, r"^x = 1 of 1 inputs with NaN or infinity"),
        ({"x": torch.tensor([[0.0, 2.0]]), "box": (0, 1)}, InvalidValue, r"^x = 1 of 1 inputs outside the box"),
        ({"y": torch.tensor([0, 1])}, InvalidValue, r"^y = 2 labels: must be as many as the 1 inputs"),
        ({"y": torch.tensor([2])}, InvalidValue, r"^y = label 2 at 0"),
        ({"norm": "l7"}, InvalidValue, r"^norm = 'l7': choose one of linf, l2, l1"),
        ({"box": (1, 0)}, InvalidValue, r"^box = "),
        ({"method": "magic"}, InvalidValue, r"^method = 'magic'"),
        ({"method": vx.Method("backward", "same", "median:9")}, InvalidValue, r"^estimator = median:9: does not bound"),
        ({"max_eps": 0}, InvalidValue, r"^max_eps = 0: must be finite and above 0$"),
        ({"max_eps": math.inf}, InvalidValue, r"^max_eps = inf"),
        ({"max_eps": "1"}, InvalidType, r"^max_eps is a str: pass a number$"),
        ({"tolerance": 1e-12}, InvalidValue, r"^tolerance = 1e-12: must be between 1e-9 and 1$"),
        ({"tolerance": math.nan}, InvalidValue, r"^tolerance = nan"),
        ({"tolerance": None}, InvalidType, r"^tolerance is a NoneType: pass a number$"),
        ({"memory": 0}, InvalidValue, r"^memory = 0"),
        ({"model": nn.Unflatten(1, (1, 2))}, InvalidValue, r"^model = output of shape \(n, 1, 2\): must return logits"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    usual: dict[str, Any] = {"model": nn.Linear(2, 2), "x": torch.zeros(1, 2)}
    with pytest.raises(error, match=message) as caught:
        vx.radius(**(usual | arguments))
    assert "\n" not in str(caught.value)


def test_points_within_the_radius_keep_the_class() -> None:
    model, x, _ = digits()
    found = vx.radius(model, x, norm="l2", box=(0, 1))
    sets = vx.Ball("l2", found.radii, (0, 1)).around(x)

    def moved(scale: float) -> Tensor:
        return sets.project(x + scale * found.radii.reshape(-1, 1, 1, 1).float() * torch.randn_like(x))

    for _ in range(50):
        assert torch.equal(model(moved(1.0)).argmax(1), found.predictions)
