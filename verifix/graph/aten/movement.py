"""Reshapes, slices, padding and whatever else only moves entries; concatenation; dropout at test time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from verifix.errors import InvalidValue
from verifix.graph.aten.lowering import Lowering, Operand, node, rule
from verifix.graph.lowering import moved
from verifix.operations import Concatenation, Shape


@rule(
    "view",
    "reshape",
    "_unsafe_view",
    "flatten",
    "unflatten",
    "permute",
    "transpose",
    "t",
    "squeeze",
    "unsqueeze",
    "slice",
    "select",
    "narrow",
    "flip",
    "roll",
    "expand",
    "expand_as",
    "repeat",
    "clone",
    "contiguous",
    "alias",
    "detach",
    "movedim",
    "pixel_shuffle",
    "pixel_unshuffle",
    "channel_shuffle",
    "lift_fresh_copy",
    "_to_copy",
    "to",
    "index_select",
)
def _move(graph: Lowering, op: Any, shape: Shape, x: str, *arguments: Any, **options: Any) -> str:
    name = str(op).removeprefix("aten.").split(".")[0]
    if name in ("clone", "contiguous", "alias", "detach", "lift_fresh_copy", "_to_copy", "to"):
        return x
    if name in ("view", "reshape", "_unsafe_view", "flatten", "unflatten"):
        return graph.emit(moved(graph.shape(x), lambda t: t.reshape(len(t), *shape)), x)
    if name in ("expand", "expand_as"):
        return graph.fit(x, shape)
    resolved = [argument() if callable(argument) else argument for argument in arguments]
    return graph.emit(moved(graph.shape(x), lambda t: op(t, *resolved, **options)), x)


@rule("split", "split_with_sizes", "chunk", "unbind")
def _split(graph: Lowering, op: Any, shape: None, x: str, *arguments: Any) -> list[str]:
    count = len(op(torch.zeros(2, *graph.shape(x)), *arguments))

    def part(number: int) -> Callable[[Tensor], Tensor]:
        return lambda t: op(t, *arguments)[number]

    return [graph.emit(moved(graph.shape(x), part(number)), x) for number in range(count)]


@rule("pad", "constant_pad_nd")
def _pad(graph: Lowering, op: Any, shape: Shape, x: str, sides: list[int], *rest: Any, **options: Any) -> str:
    if "constant_pad" in str(op):
        mode, value = "constant", rest[0] if rest else options.get("value")
    else:
        mode = rest[0] if rest else options.get("mode", "constant")
        value = rest[1] if len(rest) > 1 else options.get("value")
    if mode != "constant":
        return graph.emit(moved(graph.shape(x), lambda t: F.pad(t, sides, mode=mode)), x)
    return graph.emit(moved(graph.shape(x), lambda t: F.pad(t, sides, value=-1), float(value or 0)), x)


@rule("upsample_nearest1d", "upsample_nearest2d")
def _upsample(graph: Lowering, op: Any, shape: Shape, x: str, *arguments: Any) -> str:
    return graph.emit(moved(graph.shape(x), lambda t: op(t, *arguments)), x)


@rule("cat", "concat")
def _cat(graph: Lowering, op: Any, shape: Shape, parts: list[Operand], axis: int = 0) -> str:
    axis %= len(shape) + 1
    if axis == 0:
        raise InvalidValue("dim", 0, "cannot concatenate along the batch")
    return graph.emit(Concatenation([graph.shape(node(part)) for part in parts], axis - 1), *parts)


@rule("stack")
def _stack(graph: Lowering, op: Any, shape: Shape, parts: list[Operand], axis: int = 0) -> str:
    axis %= len(shape) + 1
    widened = [graph.prepare(moved(graph.shape(node(part)), lambda t: t.unsqueeze(axis)), part) for part in parts]
    return _cat(graph, op, shape, widened, axis)


@rule("dropout", "feature_dropout", "alpha_dropout")
def _dropout(graph: Lowering, op: Any, shape: Shape, x: str, p: float, train: bool) -> str:
    if train:
        raise InvalidValue("dropout", "train=True", "call model.eval()")
    return x
