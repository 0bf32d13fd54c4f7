"""Detection: nothing that crossed a boundary within the radius passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import verifix as vx
from tests.certify.examples import digits, linear
from verifix.attack import PGD
from verifix.certify import certify_run, detect_run
from verifix.data import Dataset
from verifix.errors import InvalidType, InvalidValue
from verifix.sets.ball import NORMS
from verifix.sets.base import Norm


def test_flagged_is_what_is_not_certified_for_its_own_prediction() -> None:
    model, x, _ = digits()
    for eps in (0.001, 0.01, 0.05):
        found = vx.detect(model, x, vx.Ball("linf", eps), "cap")
        own = model(x).argmax(1)
        assert torch.equal(found.predictions, own)
        assert torch.equal(found.flagged, ~vx.certify(model, x, own, vx.Ball("linf", eps), "cap").verified)
    assert found.flagged.any()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
def test_no_adversarial_example_passes(norm: Norm, box: tuple[float, float] | None) -> None:
    """PGD from every input that the network gets right; each of its examples is looked at as if it had just arrived."""
    model, x, y = digits(60)
    right = model(x).argmax(1) == y
    x, y = x[right], y[right]
    ball = vx.Ball(norm, {"linf": 0.02, "l2": 0.1, "l1": 0.3}[norm], box)
    attack = PGD(steps=40, restarts=3)(model, x, y, ball)
    assert 5 < attack.success.sum() < len(x)
    found = vx.detect(model, attack.examples, ball)
    assert torch.equal(found.predictions != y, attack.success)
    assert found.flagged[attack.success].all()


def test_examples_on_the_boundary_of_the_ball_pass_nowhere() -> None:
    """The largest certified radius is where detection ends; PGD at twice that finds nothing unflagged either."""
    model, x, _ = digits()
    found = vx.radius(model, x)
    own = found.predictions
    assert not vx.detect(model, x, vx.Ball("linf", found.radii)).flagged.any()
    assert vx.detect(model, x, vx.Ball("linf", found.uncertified)).flagged.all()
    ball = vx.Ball("linf", 2 * found.radii)
    attack = PGD(steps=40, restarts=2)(model, x, own, ball)
    flagged = vx.detect(model, attack.examples, ball).flagged
    assert flagged[attack.success].all()


networks = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(2, 8), st.integers(1, 4))


@settings(max_examples=60)
@given(networks, st.sampled_from(NORMS), st.booleans(), st.floats(1e-3, 0.5), st.sampled_from(["ibp", "cap", "crown"]))
def test_zero_false_negatives(
    network: tuple[int, int, int, int], norm: Norm, boxed: bool, eps: float, method: str
) -> None:
    seed, depth, width, inputs = network
    torch.manual_seed(seed)
    hidden = [layer for _ in range(depth) for layer in (nn.LazyLinear(width), nn.ReLU())]
    model = nn.Sequential(*hidden, nn.LazyLinear(3)).double()
    truth = torch.rand(40, inputs, dtype=torch.float64)
    model(truth)
    radii = eps * (0.1 + torch.rand(40, dtype=torch.float64))
    ball = vx.Ball(norm, radii, (0, 1) if boxed else None)
    sets = ball.around(truth)
    arrived = sets.project(truth + 2 * eps * torch.randn_like(truth))
    assert sets.contains(arrived).all()
    found = vx.detect(model, arrived, ball, method)
    crossed = model(truth).argmax(1) != model(arrived).argmax(1)
    assert found.flagged[crossed].all()
    # and the true input is within what was certified around the one that arrived
    assert ball.around(arrived).contains(truth, 1e-12).all()


def test_the_box_is_as_wide_as_its_inputs_dtype_makes_it() -> None:
    """0.3 in float32 is above 0.3: the true input is there, the one that arrived is below, and both are in the box."""
    edge = torch.tensor([[0.3]])
    assert edge.double().item() > 0.3
    model = linear([[1.0], [0.0]], [-0.3, 0.0], torch.float64)
    truth = edge.double()
    arrived = torch.tensor([[0.2]])
    assert model(truth).argmax(1).item() == 0
    assert model(arrived.double()).argmax(1).item() == 1
    ball = vx.Ball("linf", 0.2, box=(0.0, 0.3))
    assert ball.around(edge).contains(arrived).all()
    single = linear([[1.0], [0.0]], [-0.3, 0.0])
    with torch.no_grad():
        single.bias.copy_(torch.tensor([-0.29999998, 0.0]))
    assert vx.detect(single, arrived, ball).flagged.tolist() == [True]
    assert vx.detect(single, arrived, ball).result.inputs.contains(edge).all()


def test_radii_of_their_own() -> None:
    model = linear([[1.0, 0.0], [0.0, 1.0]])
    x = torch.tensor([[0.6, 0.5], [0.6, 0.5]])
    assert vx.detect(model, x, vx.Ball("linf", torch.tensor([0.04, 0.06]))).flagged.tolist() == [False, True]
    fixed = vx.Ball("linf", torch.tensor([[0.0, 0.09]]))
    assert vx.detect(model, x, fixed).flagged.tolist() == [False, False]


def test_ties_and_overflow_are_flagged() -> None:
    model = linear([[1.0, 0.0], [0.0, 1.0]])
    x = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    assert vx.detect(model, x, vx.Ball("linf", 0.0)).flagged.tolist() == [True, False]
    large = nn.Sequential(linear([[1e38], [0.0]]), linear([[1e38, 0.0], [0.0, 1e38]]))
    assert vx.detect(large, torch.tensor([[1.0]]), vx.Ball("linf", 0.0)).flagged.tolist() == [True]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"ball": 0.1}, InvalidType, r"^ball is a float: pass a Ball"),
        ({"ball": vx.Box(torch.zeros(1, 2), torch.ones(1, 2))}, InvalidType, r"^ball is a Box: pass a Ball"),
        ({"ball": vx.Ball("linf", 0.1).around(torch.zeros(1, 2))}, InvalidType, r"^ball is a LpBall: pass a Ball"),
        ({"x": [0.0]}, InvalidType, r"^x is a list"),
        ({"x": torch.zeros(1, 2, dtype=torch.int64)}, InvalidType, r"^x is a Tensor: pass a floating-point tensor"),
        ({"method": "magic"}, InvalidValue, r"^method = 'magic'"),
        ({"method": vx.Method("backward", "same", "median:9")}, InvalidValue, r"^estimator = median:9: does not bound"),
        ({"x": torch.full((1, 2), 2.0), "ball": vx.Ball("l2", 0.1, (0, 1))}, InvalidValue, r"^x = 1 of 1 inputs outs"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    usual: dict[str, Any] = {"model": nn.Linear(2, 2), "x": torch.zeros(1, 2), "ball": vx.Ball("linf", 0.1)}
    with pytest.raises(error, match=message):
        vx.detect(**(usual | arguments))


class TestRun:
    @pytest.fixture
    def data(self) -> Dataset:
        _, x, y = digits()
        return Dataset("npz", "test", x, y, classes=4)

    def test_equal_to_the_library(self, tmp_path: Path, data: Dataset) -> None:
        model = digits()[0].eval()
        ball = vx.Ball("linf", 0.02, (0, 1))
        summary = detect_run(model, data, ball, out=tmp_path, batch=7)
        found = vx.detect(model, data.images, ball, "cap")
        right = found.predictions == data.labels
        assert summary["n"] == 24
        assert summary["flagged"] == int(found.flagged.sum())
        assert 0 < summary["flagged"] < 24
        assert summary["flagged_fraction"] == summary["flagged"] / 24
        assert summary["accuracy"] == int(right.sum()) / 24
        assert summary["flagged_of_right"] == pytest.approx(found.flagged[right].double().mean().item())
        assert summary["flagged_of_wrong"] == pytest.approx(found.flagged[~right].double().mean().item())
        assert summary["accuracy_of_unflagged"] == pytest.approx(right[~found.flagged].double().mean().item())
        assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 24

    def test_labels_decide_nothing(self, tmp_path: Path, data: Dataset) -> None:
        model, ball = digits()[0].eval(), vx.Ball("linf", 0.02)
        other = Dataset("npz", "test", data.images, (data.labels + 1) % 4, classes=4)
        first = detect_run(model, data, ball, out=tmp_path / "a")
        second = detect_run(model, other, ball, out=tmp_path / "b")
        assert first["flagged"] == second["flagged"]
        assert first["accuracy"] != second["accuracy"]

    def test_a_certification_is_not_resumed_as_a_detection(self, tmp_path: Path, data: Dataset) -> None:
        model, ball = digits()[0].eval(), vx.Ball("linf", 0.02)
        certify_run(model, data, ball, out=tmp_path)
        with pytest.raises(InvalidValue, match="question was absent, now detect"):
            detect_run(model, data, ball, out=tmp_path, resume=True)

    def test_nothing_is_written_for_bad_input(self, tmp_path: Path, data: Dataset) -> None:
        model = digits()[0].eval()
        for changes in ({"method": "magic"}, {"memory": 1}, {"batch": 0}):
            with pytest.raises(InvalidValue):
                detect_run(model, data, vx.Ball("linf", 0.02), out=tmp_path / "run", **changes)  # type: ignore[arg-type]
        with pytest.raises(InvalidValue, match="outside the box"):
            detect_run(model, data, vx.Ball("linf", 0.02, (0, 0.5)), out=tmp_path / "run")
        assert not (tmp_path / "run").exists()
