"""Compiled passes on a GPU are tried out before they are trusted: kernels there depend on drivers and compilers."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from verifix.bounds.backward import backward
from verifix.bounds.lowered import Inexpressible, Lowered
from verifix.bounds.native import NativePass
from verifix.bounds.rounding import plain_arithmetic, relative_error, underflow
from verifix.graph import INPUT, Graph, Node
from verifix.operations import Clip, Convolution, Dense, Movement, Relaxation, Sum, TwoPiece, fixed
from verifix.sets import InputSet, LpBall
from verifix.sets.ball import NORMS
from verifix.tensors import contract, flatten

SHAPE = (3, 9, 7)


@functools.cache
def trusted(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether compiled passes on a device agree with plain torch, to the rounding of both, on a small network."""
    return device.type == "cpu" or agrees(device, dtype)


def agrees(device: torch.device, dtype: torch.dtype) -> bool:
    """The trial itself."""
    graph = _network(device)
    try:
        lowered = Lowered(graph, torch.zeros(0, dtype=dtype, device=device))
    except Inexpressible:
        return True  # there is nothing to trust
    with torch.no_grad(), plain_arithmetic():
        try:
            return all(_agrees(graph, inputs, lowered) for inputs in _sets(device, dtype))
        except RuntimeError:  # it does not even run: code for another kind of GPU, or a driver that is too old
            return False


def _numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _network(device: torch.device) -> Graph:
    """Windows that overlap the edge, a residual branch, more rows than a group has lanes, and lines of every kind."""

    def convolution(shape: tuple[int, ...], seed: int, stride: int) -> Convolution:
        weight = fixed(0.2 * _numbers(seed, 6, shape[0], 3, 3).to(device))
        bias = fixed(_numbers(seed + 1, 6).to(device))
        return Convolution(shape, weight, bias, (stride, stride), (1, 1), (1, 1), 1)

    first = convolution(SHAPE, 0, 2)
    middle = first.shape
    size = middle[0] * middle[1] * middle[2]
    return Graph(SHAPE, [
        Node("first", first, (INPUT,)),
        Node("relu", TwoPiece(middle), ("first",)),
        Node("second", convolution(middle, 2, 1), ("relu",)),
        Node("sum", Sum([middle, middle], -0.5), ("second", "relu")),
        Node("clip", Clip(middle, -0.5, 1.0), ("sum",)),
        Node("flat", Movement(middle, torch.arange(size)), ("clip",)),
        Node("dense", Dense((size,), fixed(0.2 * _numbers(4, 40, size).to(device)), None), ("flat",)),
    ])  # fmt: skip


def _sets(device: torch.device, dtype: torch.dtype) -> list[InputSet]:
    center = _numbers(5, 3, *SHAPE).to(device, dtype)
    return [LpBall(center, norm, 0.1, None) for norm in NORMS]


def _agrees(graph: Graph, inputs: InputSet, lowered: Lowered) -> bool:
    center = inputs.center
    compiled = NativePass(graph, inputs, None, lowered)
    lines: dict[str, Relaxation] = {}
    sizes = {INPUT: inputs.magnitude()}
    for node in graph.nodes.values():
        operation = node.operation
        if isinstance(operation, TwoPiece | Clip):
            wide = 1 + sizes[node.inputs[0]]
            lines[node.name] = operation.lines(-wide, 0.7 * wide, "adaptive")
            sizes[node.name] = lines[node.name].magnitude(wide, -wide, 0.7 * wide)
        elif isinstance(operation, Convolution | Dense | Sum | Movement):
            size = operation.absolute(*(sizes[name] for name in node.inputs))
            offset = operation.offset_size(size)
            sizes[node.name] = size if offset is None else size + offset
    for name in ("sum", "dense"):
        shape = graph.shape_of(name)
        units = torch.eye(sizes[name][0].numel(), dtype=center.dtype, device=center.device).reshape(1, -1, *shape)
        factor, floor = relative_error(graph, name, center.dtype), underflow(graph, name, center.dtype)
        error = 2 * (factor * contract(units, sizes[name]) + floor * (1 + flatten(sizes[name], 1).amax(1))[:, None])
        low, high = compiled(name, None, lines, upper=True)
        below, above = backward(graph, name, units, lines, inputs, upper=True)
        for ours, torchs in ((low, below), (high, above)):
            if ours is None or torchs is None or not bool(((flatten(ours, 1) - torchs).abs() <= error).all()):
                return False
    return True
