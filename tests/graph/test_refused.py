"""What cannot be captured is refused with one line that names the operation and the line of code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import verifix as vx
from verifix.errors import InvalidValue, UnsupportedOperation

HERE = "test_refused.py"


class Net(nn.Module):
    """A network of one function and, where it needs one, a layer."""

    def __init__(self, function: Callable[..., Any], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.function, self.layer = function, layer

    def forward(self, x: Tensor) -> Any:
        return self.function(x) if self.layer is None else self.function(self.layer(x))


def refusal(model: nn.Module, shape: tuple[int, ...], capfd: pytest.CaptureFixture[str]) -> str:
    """The one line of the error, with nothing beside it on the terminal."""
    with pytest.raises(UnsupportedOperation) as caught:
        vx.capture(model, torch.rand(shape))
    message = str(caught.value)
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")
    return message


UNSUPPORTED: dict[str, Callable[[Tensor], Any]] = {
    "softmax": lambda x: x.softmax(1),
    "gelu": F.gelu,
    "exp": lambda x: x.exp(),
    "round": lambda x: x.round(),
    "index": lambda x: x[:, [0, 2]],
    "gt": lambda x: torch.where(x > 0, x, 0.0),
    "maximum": lambda x: torch.maximum(x, torch.zeros(4)),
    "pow": lambda x: x**2,
    "argmax": lambda x: x.argmax(1),
    "layer_norm": lambda x: F.layer_norm(x, (4,)),
    "prod": lambda x: x.prod(1),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_operation_without_a_rule(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    message = refusal(Net(UNSUPPORTED[name]), (2, 4), capfd)
    assert message.startswith(f"operation {name} at ")
    assert "is not supported; supported are: abs, " in message
    assert ", tanh, " in message


def test_the_user_s_line_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    class Users(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            return torch.logsumexp(y, 1, keepdim=True) + y

    message = refusal(Users(), (2, 4), capfd)
    assert "operation logsumexp at " in message
    assert HERE in message
    assert "`return torch.logsumexp(y, 1, keepdim=True) + y`" in message


def test_the_user_s_line_is_shown_where_a_layer_of_torch_runs_the_operation(capfd: pytest.CaptureFixture[str]) -> None:
    class Users(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.body(x)

    message = refusal(Users(), (2, 4), capfd)
    assert message.startswith("operation layer_norm at ")
    assert HERE in message
    assert "`return 2 * self.body(x)`" in message


MIXING: dict[str, Callable[[Tensor], Tensor]] = {
    "mean over the batch": lambda x: x - x.mean(0),
    "mean over the batch, kept": lambda x: x - x.mean(0, keepdim=True),
    "sum of everything": lambda x: x * 0 + x.sum(),
    "largest reduction": lambda x: x.sum((0, 1), keepdim=True),
    "flip": lambda x: x.flip(0),
    "roll": lambda x: x.roll(1, 0),
    "roll flattened": lambda x: x.roll(1),
    "transpose": lambda x: x.t().relu().t(),
    "view": lambda x: x.view(-1, 2).relu().view(-1, 4),
    "unsqueeze": lambda x: x.unsqueeze(0).relu().squeeze(0),
    "cat": lambda x: torch.cat([x, x]),
    "first input": lambda x: x + x[:1],
    "stack": lambda x: torch.stack([x, x]),
    "gram": lambda x: x @ x.T,
    "expand": lambda x: x[None].expand(3, -1, -1),
}


@pytest.mark.parametrize("name", MIXING)
def test_mixing_the_inputs_of_a_batch(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    message = refusal(Net(MIXING[name]), (2, 4), capfd)
    assert message.startswith("operation ")
    assert HERE in message or "moves or mixes" in message
    remedies = (
        "keep axis 0 as the batch",
        "each output must depend on one input",
        "the first axis must stay the batch",
    )
    assert any(remedy in message for remedy in remedies)


COMPUTING: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "product of activations": (lambda x: x * torch.sigmoid(x), "products of activations are not supported"),
    "division by an activation": (lambda x: 1 / x, "only division by a constant|reciprocal"),
    "floor division": (lambda x: torch.div(x, 2, rounding_mode="floor"), "only division by a constant"),
    "matrix times activation": (lambda x: torch.ones(2, 2) @ x.reshape(-1, 2, 2), "activation here"),
    "batched matrices": (lambda x: x.reshape(-1, 2, 2) @ torch.ones(1, 2, 3), "needs an activation times a constant"),
    "clamp by a tensor": (lambda x: x.clamp(torch.zeros(4), torch.ones(4)), "limits must be numbers"),
    "clamp upside down": (lambda x: x.clamp(1.0, 0.0), "needs min <= max"),
    "batch statistics": (lambda x: F.batch_norm(x, None, None, training=True), "mixes the batch axis"),
    "times the batch size": (lambda x: x * x.shape[0], "computes with the batch size"),
    "plus the batch size": (lambda x: x + x.shape[0], "computes with the batch size"),
    "over the batch size": (lambda x: x / x.shape[0], "computes with the batch size"),
    "zeros of the batch size": (lambda x: x + torch.zeros(x.shape[0], 4), "a constant of the batch's size"),
    "rounding to half": (lambda x: x.half().float(), "rounds to torch.float16; keep to the dtype of the input"),
    "rounding to integers": (lambda x: x + 1e-9 * x.long(), "rounds to torch.int64"),
    "a convolution of an activation with an activation": (
        lambda x: F.linear(x, x.mean(1, keepdim=True).expand(-1, 4)), "parameter or constant here|moves or mixes",
    ),
    "dropout left on": (lambda x: F.dropout(x, 0.5, True), "dropout|random|differs"),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPUTING)
def test_what_no_rule_covers(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    function, wanted = COMPUTING[name]
    message = refusal(Net(function), (2, 4), capfd)
    assert any(part in message for part in wanted.split("|")), message


WHOLE: dict[str, tuple[nn.Module, str]] = {
    "two outputs": (Net(lambda x: (x, x + 1)), "model Net: returns 2 values; wrap it to return one tensor of logits"),
    "a tuple of one": (Net(lambda x: (x + 1,)), "model Net: returns tuple where its graph returns"),
    "a dictionary": (Net(lambda x: {"logits": x + 1}), "model Net: returns dict where its graph returns"),
    "branches on values": (Net(lambda x: x if x.sum() > 0 else -x), "model Net: torch.export could not capture it"),
    "reads a value": (Net(lambda x: x * float(x.sum())), "model Net: torch.export could not capture it"),
    "drops an input": (Net(lambda x: x[1:]), "model Net: torch.export could not capture it"),
    "is random": (Net(lambda x: x + torch.rand(4)), "its graph differs from it by"),
    "squeezes a batch of one": (Net(lambda x: x.squeeze() * 2), "where its graph returns (1, 4)"),
    "batch normalisation without statistics": (nn.BatchNorm1d(4, track_running_stats=False), "mixes the batch axis"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_models_that_are_no_function_of_one_input(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    model, wanted = WHOLE[name]
    assert wanted in refusal(model, (2, 4), capfd)


def test_a_model_that_counts_its_calls(capfd: pytest.CaptureFixture[str]) -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x * 2

    assert refusal(Counter(), (2, 4), capfd).startswith("model Counter: changes its buffer calls at each call; ")


@pytest.mark.parametrize("function", [lambda x: torch.ones(2, 3), lambda x: None, lambda x: x.new_zeros(len(x), 3)])
def test_an_output_that_does_not_depend_on_the_input(function: Callable[[Tensor], Any]) -> None:
    with pytest.raises((InvalidValue, UnsupportedOperation)) as caught:
        vx.capture(Net(function), torch.rand(2, 4))
    assert "\n" not in str(caught.value)
    reasons = ("output does not depend on its input", "could not capture it for any batch size")
    assert any(reason in str(caught.value) for reason in reasons)


LAYERS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), (2, 3, 4)),
    (nn.LSTM(4, 3, batch_first=True), (2, 3, 4)),
    (nn.LayerNorm(4), (2, 4)),
    (nn.GroupNorm(1, 3), (2, 3, 4, 4)),
    (nn.InstanceNorm2d(3), (2, 3, 4, 4)),
    (nn.ConvTranspose2d(3, 2, 2), (2, 3, 4, 4)),
    (nn.Conv3d(1, 1, 1), (2, 1, 3, 3, 3)),
    (nn.PReLU(), (2, 4)),
    (nn.ELU(), (2, 4)),
    (nn.SiLU(), (2, 4)),
    (nn.LPPool2d(2, 2), (2, 3, 4, 4)),
    (nn.MaxPool2d(2, return_indices=True), (2, 3, 4, 4)),
]


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: type(case[0]).__name__)
def test_layers_beyond_the_list(case: tuple[nn.Module, tuple[int, ...]], capfd: pytest.CaptureFixture[str]) -> None:
    layer, shape = case
    message = refusal(nn.Sequential(layer), shape, capfd)
    assert message.startswith("operation ")
    assert " at " in message
