"""Walking nn.Sequential: every layer, names, nesting, and what is left to torch.export."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

import verifix as vx
from verifix.graph.sequential import _RULES, walk
from verifix.operations import Dense, TwoPiece

LAYERS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Linear(5, 3), (5,)),
    (nn.Linear(4, 3, bias=False), (2, 4)),
    (nn.Conv1d(2, 3, 3, stride=2, padding=1, dilation=2), (2, 9)),
    (nn.Conv2d(2, 4, (2, 3), stride=(2, 1), padding=(0, 2), groups=2, bias=False), (2, 5, 6)),
    (nn.Conv2d(2, 3, 3, padding="same", dilation=2), (2, 5, 6)),
    (nn.Conv2d(2, 3, 3, padding="valid"), (2, 5, 6)),
    (nn.BatchNorm1d(4), (4,)),
    (nn.BatchNorm1d(4, affine=False), (4, 3)),
    (nn.BatchNorm2d(2, eps=0.3), (2, 3, 3)),
    (nn.AvgPool1d(3, 2, 1, ceil_mode=True), (2, 8)),
    (nn.AvgPool2d((2, 3), ceil_mode=True, count_include_pad=False), (2, 5, 6)),
    (nn.AvgPool2d(3, 2, 1, divisor_override=4), (2, 5, 6)),
    (nn.AdaptiveAvgPool1d(3), (2, 7)),
    (nn.AdaptiveAvgPool2d(1), (2, 5, 6)),
    (nn.AdaptiveAvgPool2d((None, 4)), (2, 5, 6)),
    (nn.MaxPool2d(3, 2, 1, ceil_mode=True), (2, 5, 6)),
    (nn.MaxPool2d((2, 3), dilation=(2, 1)), (2, 5, 6)),
    (nn.Flatten(), (2, 3, 4)),
    (nn.Flatten(2, 3), (2, 3, 4)),
    (nn.Unflatten(1, (2, 3)), (6,)),
    (nn.ZeroPad2d((1, 2, 0, 3)), (2, 3, 4)),
    (nn.ZeroPad2d(-1), (2, 3, 4)),
    (nn.Identity(), (3,)),
    (nn.Dropout(0.9), (3,)),
    (nn.Dropout1d(0.9), (3, 2)),
    (nn.Dropout2d(0.9), (3, 2, 2)),
    (nn.ReLU(inplace=True), (3,)),
    (nn.LeakyReLU(0.3, inplace=True), (3,)),
    (nn.Hardtanh(-0.2, 0.4, inplace=True), (3,)),
    (nn.ReLU6(), (3,)),
    (nn.Sigmoid(), (3,)),
    (nn.Tanh(), (3,)),
]


def label(case: tuple[nn.Module, tuple[int, ...]]) -> str:
    return str(case[0])


@pytest.mark.parametrize("case", LAYERS, ids=label)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_layer(case: tuple[nn.Module, tuple[int, ...]], dtype: torch.dtype) -> None:
    layer, shape = case
    layer.eval()
    graph = walk(nn.Sequential(layer), shape)
    assert graph is not None
    x = 2 * torch.randn(4, *shape, dtype=dtype)
    with torch.no_grad():
        wanted = layer.double()(x.double().clone())
        layer.to(dtype)
        got = graph(x)
    assert got.dtype == dtype
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(got.double(), wanted, rtol=tolerance, atol=tolerance)


def test_every_rule_has_a_layer() -> None:
    assert {type(layer) for layer, _ in LAYERS} == set(_RULES)


def test_names_are_those_of_the_layers() -> None:
    inner = nn.Sequential(OrderedDict(first=nn.Linear(3, 3), act=nn.ReLU()))
    model = nn.Sequential(nn.Linear(2, 3), inner, nn.Sequential(nn.Sequential(nn.Linear(3, 1))))
    graph = vx.capture(model, torch.zeros(1, 2))
    assert list(graph.nodes) == ["0", "1.first", "1.act", "2.0.0"]
    assert [node.inputs for node in graph.nodes.values()] == [("input",), ("0",), ("1.first",), ("1.act",)]
    assert graph.node("1.first").source == f"layer 1.first: {inner.first}"


def test_a_layer_used_twice_is_two_nodes() -> None:
    twice, act = nn.Linear(3, 3), nn.ReLU()
    model = nn.Sequential(twice, act, twice, act)
    graph = vx.capture(model, torch.zeros(1, 3))
    assert list(graph.nodes) == ["0", "1", "2", "3"]
    x = torch.randn(4, 3)
    torch.testing.assert_close(graph(x), model(x))
    with torch.no_grad():
        twice.weight.mul_(2.0)
    torch.testing.assert_close(graph(x), model(x))


def test_a_nested_sequential_used_twice() -> None:
    block = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    model = nn.Sequential(block, block)
    graph = vx.capture(model, torch.zeros(1, 3))
    assert list(graph.nodes) == ["0.0", "0.1", "1.0", "1.1"]
    x = torch.randn(4, 3)
    torch.testing.assert_close(graph(x), model(x))


def test_a_single_layer_is_a_network() -> None:
    graph = vx.capture(nn.Linear(3, 2), torch.zeros(1, 3))
    assert list(graph.nodes) == ["0"]
    assert isinstance(graph.node("0").operation, Dense)


def test_empty_parts_of_a_sequential_leave_no_trace() -> None:
    model = nn.Sequential(nn.Sequential(), nn.Linear(3, 2), nn.Sequential(nn.Sequential()))
    assert list(vx.capture(model, torch.zeros(1, 3)).nodes) == ["1"]


class Doubled(nn.Linear):
    """A subclass may do anything."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def hooked(model: nn.Module, module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda module, args, output: output + 1)
    return model


def prehooked(model: nn.Module, module: nn.Module) -> nn.Module:
    module.register_forward_pre_hook(lambda module, args: (-args[0],))
    return model


def patched(model: nn.Module, module: nn.Module) -> nn.Module:
    plain = type(module).forward
    module.forward = lambda x: 3 * plain(module, x)  # type: ignore[method-assign]
    return model


def stack() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))


@pytest.mark.parametrize("alter", [hooked, prehooked, patched])
@pytest.mark.parametrize("place", ["top", "layer", "inner sequential", "inner layer"])
def test_what_changes_a_forward_is_not_walked_past(alter: object, place: str) -> None:
    assert callable(alter)
    model = stack()
    places = {"top": model, "layer": model[0], "inner sequential": model[1], "inner layer": model[1][0]}
    model = alter(model, places[place])
    assert walk(model, (3,)) is None


@pytest.mark.parametrize(
    "layer",
    [
        Doubled(3, 3),
        nn.GELU(),
        nn.Softmax(1),
        nn.BatchNorm1d(3, track_running_stats=False),
        nn.Conv2d(3, 3, 1, padding_mode="reflect"),
        nn.Conv2d(3, 3, (2, 2), padding="same"),
        nn.MaxPool2d(1, return_indices=True),
    ],
    ids=str,
)
def test_other_layers_are_left_to_export(layer: nn.Module) -> None:
    shape = (3, 4, 4) if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)) else (3,)
    assert walk(nn.Sequential(layer).eval(), shape) is None


def test_a_model_with_a_hook_is_captured_by_export() -> None:
    model = hooked(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.Identity())
    model[0].register_forward_hook(lambda module, args, output: output - 0.5)
    graph = vx.capture(model, torch.zeros(1, 3))
    x = torch.randn(5, 3)
    torch.testing.assert_close(graph(x), model(x))
    assert any(isinstance(node.operation, TwoPiece) for node in graph.nodes.values())
    assert len(graph.nodes) == 3
