"""Certification: verdicts, margins, counterexamples, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import verifix as vx
from tests.certify.examples import digits, linear
from verifix.bounds.tiles import least_memory
from verifix.errors import InvalidType, InvalidValue
from verifix.sets.ball import NORMS, Norm

METHODS = ["ibp", "crown-ibp", "cap", "crown"]


def test_margins_have_one_column_for_each_class_and_infinity_at_the_label() -> None:
    model, x, y = digits()
    result = vx.certify(model, x, y, vx.Ball("linf", 0.001))
    assert result.margins.shape == (24, 4)
    assert torch.equal(torch.isinf(result.margins), torch.nn.functional.one_hot(y, 4).bool())
    logits = model(x).detach()
    clean = logits.gather(1, y[:, None]) - logits
    assert (result.margins <= clean.scatter(1, y[:, None], torch.inf) + 1e-6).all()
    assert torch.equal(result.margin, result.margins.amin(1))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
@pytest.mark.parametrize("method", [*METHODS, "cap+ibp", "crown+crown-ibp+cap"])
def test_no_sampled_point_breaks_a_verdict(norm: Norm, box: tuple[float, float] | None, method: str) -> None:
    model, x, y = digits()
    eps = {"linf": 0.01, "l2": 0.02, "l1": 0.02}[norm]
    ball = vx.Ball(norm, eps, box)
    result = vx.certify(model, x, y, ball, method)
    assert 0 < result.verified.sum() < len(x)
    sets = ball.around(x)
    for scale in (0.5, 1.0, 3.0):
        for _ in range(20):
            step = torch.randn_like(x) if norm == "l2" else torch.randn_like(x).sign()
            step = step * (torch.rand(len(x), 1, 7, 7) < 0.05) if norm == "l1" else step
            logits = model(sets.project(x + scale * eps * step)).detach()
            margins = (logits.gather(1, y[:, None]) - logits).scatter(1, y[:, None], torch.inf)
            assert (margins >= result.margins - 1e-6).all()
            assert (logits.argmax(1) == y)[result.verified].all()


def test_verdicts_of_all_kinds() -> None:
    model, x, y = digits()
    result = vx.certify(model, x, y, vx.Ball("linf", 0.05, box=(0, 1)))
    clean = model(x).argmax(1)
    assert torch.equal(result.predictions, clean)
    assert set(result.verdicts) == {"verified", "falsified", "unknown"}
    assert result.verdicts.dtype.kind == "U"
    assert np.array_equal(result.verdicts == "falsified", (clean != y).numpy())
    assert torch.equal(result.verified, torch.from_numpy(result.verdicts == "verified"))
    assert (result.margin[result.verified] > 0).all()
    assert not (result.margin[torch.from_numpy(result.verdicts == "unknown")] > 0).any()


def test_counterexamples_lie_in_the_set_and_fool_the_model() -> None:
    model, x, y = digits()
    sets = vx.Ball("l2", 0.1, box=(0, 1)).around(x)
    result = vx.certify(model, x, y, sets)
    assert sorted(result.counterexamples) == np.flatnonzero(result.verdicts == "falsified").tolist()
    assert len(result.counterexamples) == 5
    for i, point in result.counterexamples.items():
        assert sets.select(slice(i, i + 1)).contains(point[None]).all()
        assert model(point[None]).argmax(1).item() != y[i].item()
        assert point.data_ptr() != x[i].data_ptr()


def test_intersections_take_the_best_of_each_margin() -> None:
    model, x, y = digits()
    ball = vx.Ball("linf", 0.03, box=(0, 1))
    model.double()
    single = {name: vx.certify(model, x.double(), y, ball, name) for name in METHODS}
    joined = vx.certify(model, x.double(), y, ball, "+".join(METHODS))
    best = torch.stack([result.margins for result in single.values()]).amax(0)
    assert torch.equal(joined.margins, best)
    assert len({result.margin.sum().item() for result in single.values()}) == 4
    as_list = vx.certify(model, x.double(), y, ball, ["ibp", vx.Method("backward", "same"), "crown", "crown-ibp"])
    assert torch.equal(as_list.margins, best)


def test_rows_are_proved_of_every_point() -> None:
    model = linear([[1.0, 0.0], [0.0, 1.0]])
    x = torch.tensor([[0.5, 0.1], [0.5, 0.35], [0.1, 0.5], [0.2, 0.2]])
    rows = vx.Rows(torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([0.0, 0.125]))
    result = vx.certify(model, x, rows, vx.Ball("linf", 0.1), "cap")
    assert result.verdicts.tolist() == ["verified", "unknown", "falsified", "unknown"]
    assert list(result.counterexamples) == [2]
    wanted = torch.tensor([[0.2, 0.525], [-0.05, 0.775], [-0.6, 0.525], [-0.2, 0.325]])
    torch.testing.assert_close(result.margins, wanted, rtol=0, atol=1e-5)
    assert (result.margins.double() <= wanted.double() + 1e-7).all()


def test_each_input_has_its_own_rows_and_threshold() -> None:
    model = linear([[1.0, 0.0], [0.0, 1.0]])
    x = torch.full((2, 2), 0.5)
    matrix = torch.tensor([[[1.0, 0.0]], [[0.0, -1.0]]])
    result = vx.certify(model, x, vx.Rows(matrix, torch.tensor([[0.0], [0.25]])), vx.Ball("linf", 0.1))
    assert result.verdicts.tolist() == ["verified", "falsified"]
    torch.testing.assert_close(result.margins, torch.tensor([[0.4], [-0.35]]), rtol=0, atol=1e-5)


def test_margins_as_a_specification() -> None:
    model, x, y = digits()
    ball = vx.Ball("linf", 0.01)
    by_labels, by_specification = (vx.certify(model, x, s, ball) for s in (y, vx.Margins(y, 4)))
    assert by_labels.verdicts.tolist() == by_specification.verdicts.tolist()
    assert torch.equal(by_labels.margins, by_specification.margins)


def test_no_rows_are_always_true() -> None:
    result = vx.certify(linear([[1.0]]), torch.ones(2, 1), vx.Rows(torch.ones(0, 1)), vx.Ball("linf", 0.1))
    assert result.verdicts.tolist() == ["verified", "verified"]
    assert result.margin.tolist() == [torch.inf, torch.inf]


def test_bounds_of_nodes() -> None:
    model, x, y = digits()
    sets = vx.Ball("linf", 0.01, box=(0, 1)).around(x)
    result = vx.certify(model, x, y, sets, "crown+ibp")
    for name in result.graph.nodes:
        lower, upper = result.bounds(name)
        with torch.no_grad():
            wanted = vx.bounds(model, sets, "crown+ibp", node=name)
        assert torch.equal(lower, wanted[0])
        assert torch.equal(upper, wanted[1])
        value = result.graph.activations(x)[name]
        assert ((lower <= value) & (value <= upper)).all()
        assert not lower.requires_grad
    with pytest.raises(InvalidValue, match=r"^node = 'conv': choose one of input, 0, 1, "):
        result.bounds("conv")


def test_a_box_set() -> None:
    model, x, y = digits()
    box = vx.Box((x - 0.01).clamp(min=0), (x + 0.01).clamp(max=1))
    ball = vx.Ball("linf", 0.01, box=(0, 1))
    by_box, by_ball = vx.certify(model, x, y, box), vx.certify(model, x, y, ball)
    assert by_box.verdicts.tolist() == by_ball.verdicts.tolist()
    torch.testing.assert_close(by_box.margins, by_ball.margins, rtol=1e-4, atol=1e-4)


def test_a_graph_instead_of_a_model() -> None:
    model, x, y = digits()
    graph = vx.capture(model, x[:1])
    by_graph, by_model = (vx.certify(m, x, y, vx.Ball("linf", 0.01)) for m in (graph, model))
    assert torch.equal(by_graph.margins, by_model.margins)
    assert torch.equal(by_graph.predictions, by_model.predictions)


@pytest.mark.parametrize("shape", [(0, 3), (0, 1, 7, 7)])
def test_no_inputs(shape: tuple[int, ...]) -> None:
    model = linear([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]) if len(shape) == 2 else digits()[0]
    x, y = torch.zeros(shape), torch.zeros(0, dtype=torch.int64)
    for eps in (0.1, torch.zeros(0)):
        result = vx.certify(model, x, y, vx.Ball("l2", eps, box=(0, 1)), "cap+ibp")
        assert result.verdicts.shape == result.margin.shape == result.predictions.shape == result.verified.shape == (0,)
        assert result.margins.shape == (0, result.graph.shape[0])
        assert result.bounds(result.graph.output)[0].shape == (0, result.graph.shape[0])


def test_one_class_cannot_be_confused() -> None:
    result = vx.certify(linear([[1.0, -1.0]]), torch.rand(3, 2), torch.zeros(3, dtype=torch.int64), vx.Ball("l1", 9.0))
    assert result.verdicts.tolist() == ["verified"] * 3
    assert result.margins.tolist() == [[torch.inf]] * 3
    assert result.margin.tolist() == [torch.inf] * 3


def test_a_model_in_training_mode_stays_so_and_is_judged_at_test_time() -> None:
    model, x, y = digits()
    wanted = vx.certify(model, x, y, vx.Ball("linf", 0.01))
    model = nn.Sequential(*model, nn.Dropout(0.9)).train()
    model[1].eval()
    flags = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = vx.certify(model, x, y, vx.Ball("linf", 0.01))
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert result.verdicts.tolist() == wanted.verdicts.tolist()
    assert torch.equal(result.predictions, wanted.predictions)


def test_inputs_are_not_changed_by_a_first_layer_in_place() -> None:
    model = nn.Sequential(nn.LeakyReLU(0.1, inplace=True), linear([[1.0, 0.0], [0.0, 1.0]]))
    x = torch.tensor([[-1.0, 0.5], [0.5, -2.0]])
    before = x.clone()
    result = vx.certify(model, x, torch.tensor([0, 0]), vx.Ball("linf", 0.1))
    assert torch.equal(x, before)
    assert result.verdicts.tolist() == ["falsified", "verified"]
    assert torch.equal(result.counterexamples[0], before[0])


def test_gradients_are_not_recorded() -> None:
    model, x, y = digits()
    result = vx.certify(model, x.requires_grad_(), y, vx.Ball("linf", 0.01))
    assert not result.margins.requires_grad
    assert not any(point.requires_grad for point in result.counterexamples.values())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_small_memory_budget_changes_nothing_but_the_pieces() -> None:
    model, x, y = digits()
    ball = vx.Ball("l2", 0.05, box=(0, 1))
    least = least_memory(vx.capture(model, x[:2]), [torch.float32, torch.float64])
    whole, pieces = vx.certify(model, x, y, ball, "cap"), vx.certify(model, x, y, ball, "cap", memory=least)
    assert whole.verdicts.tolist() == pieces.verdicts.tolist()
    torch.testing.assert_close(whole.margins, pieces.margins, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": [[0.0, 0.0]]}, InvalidType, r"^x is a list: pass a torch.Tensor"),
        ({"x": torch.tensor([[0.0, math.nan]])}, InvalidValue, r"^x = 1 of 1 inputs with NaN or infinity"),
        ({"x": torch.zeros(1, 3)}, InvalidValue, r"^model = Linear: failed on inputs of shape \(1, 3\)"),
        ({"x": torch.zeros(1, 2).double()}, InvalidValue, r"^model = Linear: failed on inputs of shape .*dtype"),
        ({"y": [0]}, InvalidType, r"^y is a list: pass a torch.Tensor of class numbers"),
        ({"inputs": 0.1}, InvalidType, r"^inputs is a float: pass a Ball, or an input set"),
        ({"inputs": None}, InvalidType, r"^inputs is a NoneType"),
        ({"inputs": vx.Ball("linf", 0.1).around(torch.zeros(2, 2))}, InvalidValue, r"^inputs = sets of shape \(2, 2\)"),
        (
            {"inputs": vx.Ball("linf", 0.1).around(torch.ones(1, 2))},
            InvalidValue,
            r"^x = 1 inputs outside their own set",
        ),
        ({"inputs": vx.Box(torch.ones(1, 2), 2 * torch.ones(1, 2))}, InvalidValue, r"^x = 1 inputs outside their own"),
        ({"inputs": vx.Ball("linf", torch.ones(3))}, InvalidValue, r"^eps = tensor of shape \(3,\)"),
        ({"method": "magic"}, InvalidValue, r"^method = 'magic': choose one of ibp, "),
        ({"method": []}, InvalidValue, r"^method = \[\]: name at least one$"),
        ({"method": 3}, InvalidType, r"^method is a int: pass a name, a Method, or a sequence"),
        ({"memory": 0}, InvalidValue, r"^memory = 0: must be a positive number of bytes$"),
        ({"memory": 1.5}, InvalidType, r"^memory is a float: pass a whole number of bytes$"),
        ({"model": "resnet"}, InvalidType, r"^model is a str: pass a torch.nn.Module or a verifix Graph$"),
        ({"model": nn.Unflatten(1, (1, 2))}, InvalidValue, r"^model = output of shape \(n, 1, 2\): must return logits"),
        ({"model": nn.Sequential(nn.ZeroPad1d(-1))}, InvalidValue, r"^model = output of shape \(n, 0\): must return"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    usual = {"model": nn.Linear(2, 2), "x": torch.zeros(1, 2), "y": torch.tensor([0]), "inputs": vx.Ball("linf", 0.1)}
    with pytest.raises(error, match=message) as caught:
        vx.certify(**(usual | arguments))
    assert "\n" not in str(caught.value)


def test_a_model_without_a_class_axis_is_refused() -> None:
    class Score(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum(1)

    with pytest.raises(InvalidValue, match=r"^model = output of shape \(n, \): must return logits \(n, classes\)$"):
        vx.certify(Score(), torch.zeros(1, 2), torch.tensor([0]), vx.Ball("linf", 0.1))


def test_verdicts_are_five_plain_words() -> None:
    assert [str(verdict) for verdict in vx.Verdict] == ["verified", "falsified", "unknown", "timeout", "error"]
