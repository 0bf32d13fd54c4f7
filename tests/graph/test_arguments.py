"""Models and examples that are refused before, or after, their graph is made; operations are in test_refused.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import verifix as vx
from tests.graph.networks import Wrapped
from verifix.errors import InvalidType, InvalidValue, UnsupportedOperation
from verifix.graph.capture import _check_agreement


@pytest.mark.parametrize("model", [None, 3, torch.relu, nn.Linear, {"weight": 1}])
def test_a_model_that_is_no_module(model: object) -> None:
    with pytest.raises(InvalidType, match=r"^model is a .*: pass a torch.nn.Module or a verifix Graph$"):
        vx.capture(model, torch.zeros(1, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (torch.zeros(0, 3), r"^example = tensor of shape \(0, 3\): needs at least one input$"),
        (torch.zeros(3), r"^example = tensor of shape \(3,\): must be a batch"),
        (torch.full((1, 3), torch.nan), r"^example = 1 of 1 inputs with NaN or infinity"),
        (torch.zeros(1, 3, dtype=torch.int64), r"^example is a Tensor: pass a floating-point tensor"),
        ([1.0], r"^example is a list: pass a torch.Tensor"),
    ],
)
def test_an_example_that_is_no_input(example: Tensor, message: str) -> None:
    with pytest.raises((InvalidValue, InvalidType), match=message):
        vx.capture(nn.Linear(3, 2), example)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_broken_weights_are_named_and_counted(value: float) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        model[0].weight[0, 1:] = value
    with pytest.raises(InvalidValue, match=r"^parameter 0.weight = 2 NaN or infinite entries: the weights are broken"):
        vx.capture(model, torch.zeros(1, 3))
    with torch.no_grad():
        model[0].weight.zero_()
    model[1].running_var[0] = value
    with pytest.raises(InvalidValue, match=r"^buffer 1.running_var = 1 NaN or infinite entries"):
        vx.capture(model, torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("model", "shape", "reason"),
    [
        (nn.Linear(3, 2), (1, 4), "mat1 and mat2 shapes cannot be multiplied"),
        (nn.Sequential(nn.MaxPool2d(9)), (1, 1, 4, 4), "Output size is too small"),
        (nn.Sequential(nn.AvgPool2d(20)), (1, 1, 4, 4), "Output size is too small"),
        (nn.Sequential(nn.Unflatten(1, (2, 2))), (1, 3), "unflatten"),
        (nn.Sequential(nn.Conv2d(3, 1, 1)), (1, 2, 4, 4), "to have 3 channels, but got 2"),
        (Wrapped(nn.Linear(3, 2)), (1, 4), "mat1 and mat2 shapes cannot be multiplied"),
        (nn.Bilinear(2, 2, 2), (1, 2), "missing 1 required positional argument"),
    ],
)
def test_a_model_that_fails_says_why(
    model: nn.Module, shape: tuple[int, ...], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InvalidValue) as caught:
        vx.capture(model, torch.zeros(shape))
    message = str(caught.value)
    assert message.startswith(f"model = {type(model).__name__}: failed on inputs of shape {shape}: ")
    assert reason in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


def test_the_dtype_of_the_example_must_be_the_model_s() -> None:
    with pytest.raises(InvalidValue, match=r"^model = Linear: failed on inputs of shape \(1, 3\): .*dtype"):
        vx.capture(nn.Linear(3, 2), torch.zeros(1, 3, dtype=torch.float64))


def test_a_network_that_overflows_is_captured() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(1e25 * torch.sign(torch.randn_like(parameter)))
    graph = vx.capture(model, torch.ones(2, 2))
    assert not torch.isfinite(graph(torch.ones(1, 2))).all()


def test_a_graph_that_differs_from_the_model_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    graph = vx.capture(model, torch.zeros(1, 2))
    with torch.no_grad():
        other = nn.Sequential(nn.Linear(2, 3))
    with pytest.raises(UnsupportedOperation, match="its graph differs from it by"):
        _check_agreement(graph, other, torch.ones(1, 2))
    with pytest.raises(UnsupportedOperation, match=r"returns \(1, 2\) where its graph returns \(1, 3\)"):
        _check_agreement(graph, nn.Identity(), torch.ones(1, 2))
    infinite = nn.Linear(2, 3)
    with torch.no_grad():
        infinite.bias.fill_(torch.inf)
    with pytest.raises(UnsupportedOperation, match="its graph differs from it by inf"):
        _check_agreement(graph, infinite, torch.ones(1, 2))
