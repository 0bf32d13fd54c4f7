"""Walking ``nn.Sequential``: the quick road to a graph, for training loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.nn import functional as F

from verifix.graph.graph import INPUT, Graph, Node
from verifix.graph.lowering import average_pool, identity_of, max_pool, moved, padding_of, pair
from verifix.operations import (
    Clip,
    Convolution,
    Dense,
    Operation,
    Pooling,
    Shape,
    Sigmoid,
    Tanh,
    TwoPiece,
    adaptive_matrix,
    live,
    module_batch_norm,
)

Rule = Callable[[Any, Shape], Operation | None]
"""From a layer and its input shape to an operation; None where torch.export has to look."""


def walk(model: nn.Module, input_shape: Shape) -> Graph | None:
    """The graph of a (nested) ``nn.Sequential`` of known layers, or None where it holds anything else.

    Node names are the layers' own: ``"0"``, ``"1"``, ``"3.0"``. Parameters are read from the layers at each use.
    """
    if _has_hooks(model):
        return None
    nodes: list[Node] = []
    shape, previous = input_shape, INPUT
    for name, layer in _layers(model if type(model) is nn.Sequential else nn.Sequential(model)):
        rule = None if _has_hooks(layer) else _RULES.get(type(layer))
        operation = None if rule is None else rule(layer, shape)
        if operation is None:
            return None
        nodes.append(Node(name, operation, (previous,), f"layer {name}: {layer}"))
        shape, previous = operation.shape, name
    return Graph(input_shape, nodes) if nodes else None


def _layers(model: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    # not named_children, which leaves out a layer that is used twice
    for name, child in model._modules.items():
        if type(child) is nn.Sequential and not _has_hooks(child):
            yield from _layers(child, f"{prefix}{name}.")
        elif child is not None:
            yield prefix + name, child


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks) or "forward" in vars(module)


def _convolution(axes: int) -> Rule:
    def rule(layer: Any, shape: Shape) -> Operation | None:
        if layer.padding_mode != "zeros" or len(shape) != axes + 1:
            return None
        sides = padding_of(layer.padding, layer.kernel_size, layer.dilation)
        if sides is None:
            return None
        bias = None if layer.bias is None else live(layer, "bias")
        return Convolution(shape, live(layer, "weight"), bias, layer.stride, sides, layer.dilation, layer.groups)

    return rule


def _batch_norm(layer: Any, shape: Shape) -> Operation | None:
    return None if layer.running_mean is None else module_batch_norm(shape, layer)


def _adaptive(axes: int) -> Rule:
    def rule(layer: Any, shape: Shape) -> Operation | None:
        wanted = pair(layer.output_size, axes)
        sizes = [size if want is None else want for size, want in zip(shape[-axes:], wanted, strict=True)]
        return Pooling(shape, [adaptive_matrix(size, count) for size, count in zip(shape[-axes:], sizes, strict=True)])

    return rule


def _average(axes: int) -> Rule:
    def rule(layer: Any, shape: Shape) -> Operation | None:
        return average_pool(
            shape, pair(layer.kernel_size, axes), pair(layer.stride, axes), pair(layer.padding, axes),
            layer.ceil_mode, layer.count_include_pad, getattr(layer, "divisor_override", None),
        )  # fmt: skip

    return rule


def _max(layer: Any, shape: Shape) -> Operation | None:
    if layer.return_indices or len(shape) != 3:
        return None
    return max_pool(shape, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode)


def _movement(layer: Any, shape: Shape) -> Operation | None:
    return moved(shape, layer.forward)


def _activation(make: Callable[[Shape, Any], Operation]) -> Rule:
    return lambda layer, shape: make(shape, layer)


_RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: lambda layer, shape: Dense(
        shape, live(layer, "weight"), None if layer.bias is None else live(layer, "bias")
    ),
    nn.Conv1d: _convolution(1),
    nn.Conv2d: _convolution(2),
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.AvgPool1d: _average(1),
    nn.AvgPool2d: _average(2),
    nn.AdaptiveAvgPool1d: _adaptive(1),
    nn.AdaptiveAvgPool2d: _adaptive(2),
    nn.MaxPool2d: _max,
    nn.Flatten: _movement,
    nn.Unflatten: _movement,
    nn.ZeroPad2d: lambda layer, shape: moved(shape, lambda x: F.pad(x, layer.padding, value=-1)),
    nn.Identity: lambda layer, shape: identity_of(shape),
    nn.Dropout: lambda layer, shape: identity_of(shape),
    nn.Dropout1d: lambda layer, shape: identity_of(shape),
    nn.Dropout2d: lambda layer, shape: identity_of(shape),
    nn.ReLU: _activation(lambda shape, layer: TwoPiece(shape)),
    nn.LeakyReLU: _activation(lambda shape, layer: TwoPiece(shape, layer.negative_slope, 1.0)),
    nn.Hardtanh: _activation(lambda shape, layer: Clip(shape, layer.min_val, layer.max_val)),
    nn.ReLU6: _activation(lambda shape, layer: Clip(shape, 0.0, 6.0)),
    nn.Sigmoid: _activation(lambda shape, layer: Sigmoid(shape)),
    nn.Tanh: _activation(lambda shape, layer: Tanh(shape)),
}
"""Exact types only: a subclass may do anything in its ``forward``."""
