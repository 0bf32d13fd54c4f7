"""A graph on the compiled plan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from verifix.graph import INPUT, Graph, Node
from verifix.kernels.plan import Stored, available, plane, standard_order
from verifix.kernels.plan_cuda import plan_on
from verifix.operations import (
    Affine,
    Concatenation,
    Convolution,
    Dense,
    MaxPool,
    Movement,
    Nonlinear,
    Scaling,
    Sum,
    Value,
)
from verifix.tensors import Entries


class Inexpressible(Exception):
    """Why a graph or a relaxation cannot be put on the plan."""


class Lowered:
    """A graph on the compiled plan, with its weights as they are now, in the dtype of a tensor.

    Where the plan has no step for a node, ``missing`` says why, and later steps read from a stand-in of its shape.

    Raises:
        Inexpressible: with the reason, where the plan cannot hold the graph at all.
    """

    def __init__(self, graph: Graph, like: Tensor) -> None:
        if like.device.type not in ("cpu", "cuda") or like.dtype not in (torch.float32, torch.float64):
            raise Inexpressible(f"{like.dtype} on {like.device}")
        if not available(like.device):
            raise Inexpressible("the compiled part is missing")
        if any(0 in shape for shape in (graph.input_shape, *(n.shape for n in graph.nodes.values()))):
            raise Inexpressible("activations without entries")
        self.like = like
        self.values: list[tuple[Value, Tensor]] = []  # what was read, and what it was
        self.plan = plan_on(like.device, graph.input_shape, like.dtype)
        self.stored: dict[str, Stored] = {INPUT: self.plan.input}
        self.step_of: dict[str, int] = {}
        # of maxima: their windows, and which entries of these slopes are of, in their order
        self.windows: dict[str, Tensor] = {}
        self.places: dict[str, Tensor] = {}
        self.steps = 0
        self.missing: dict[str, str] = {}
        for node in graph.nodes.values():
            try:
                self._place(node)
            except Inexpressible as reason:
                self.missing[node.name] = str(reason)
                none = torch.zeros(0, dtype=torch.int64)
                nothing = Entries(none, none, torch.zeros(0))
                self.stored[node.name] = self.plan.sparse(self.plan.input, node.shape, nothing, None)

    def _place(self, node: Node) -> None:
        operation, sources = node.operation, [self.stored[name] for name in node.inputs]
        before = sources[0]
        if isinstance(operation, Dense) and len(operation.shape) == 1:
            placed = self.plan.dense(before, self._read(operation.weight), self._read_any(operation.bias))
        elif isinstance(operation, Dense):
            placed = self._dense_on_the_last_axis(operation, before)
        elif isinstance(operation, Convolution):
            weight = self._read(operation.weight)
            placed = self.plan.convolution(
                self._standard(before, operation.inputs[0]),
                operation.shape,
                weight.reshape(len(weight), -1, *_two(operation.kernel)),
                self._read_any(operation.bias),
                [
                    *_two(operation.kernel),
                    *_two(operation.stride),
                    *_two(operation.padding, 0),
                    *_two(operation.dilation),
                    operation.groups,
                ],
            )
        elif isinstance(operation, Scaling):
            size = math.prod(operation.shape)
            sides = (self._read_any(value) for value in (operation.scale, operation.shift, operation.shift_size))
            scale, shift, shift_size = (
                None if side is None else side.expand(operation.shape).reshape(size) for side in sides
            )
            placed = self.plan.scaling(before, scale, shift, shift_size)
        elif isinstance(operation, Sum):
            shape = operation.shape
            alike = sources[0].plane == sources[1].plane and torch.equal(sources[0].order, sources[1].order)
            first, second = sources if alike else [self._standard(source, shape) for source in sources]
            placed = self.plan.sum(first, second, operation.factor)
        elif isinstance(operation, Concatenation) and operation.axis == 0:
            parts = [self._standard(source, shape) for source, shape in zip(sources, operation.inputs, strict=True)]
            placed = self.plan.concatenation(parts, operation.shape)
        elif isinstance(operation, Concatenation):
            placed = self._concatenate(operation, sources)
        elif isinstance(operation, Movement) and operation.reshape_only:
            flat = len(operation.shape) == 1  # consumers of flat activations read entries in any order
            placed = before if flat else self._standard(before, operation.shape)
        elif isinstance(operation, Affine) and (entries := operation.entries()) is not None:
            constant = operation.offset(self.like)
            flat_constant = None if constant is None else constant.expand(operation.shape).flatten()
            placed = self.plan.sparse(before, operation.shape, entries, flat_constant)
        elif isinstance(operation, MaxPool):
            outputs, column = (operation.windows >= 0).nonzero(as_tuple=True)
            placed, order = self.plan.planes(before, operation.shape, outputs, operation.windows[outputs, column])
            self.windows[node.name] = operation.windows.to(self.like.device)
            self.places[node.name] = (outputs * operation.windows.shape[1] + column)[order].to(self.like.device)
            self.step_of[node.name] = placed.node - 1
        elif isinstance(operation, Nonlinear) and operation.inputs[0] == operation.shape:
            placed = self.plan.lines(before)
            self.step_of[node.name] = placed.node - 1
        else:
            raise Inexpressible(f"{type(operation).__name__} of node {node.name!r}")
        self.stored[node.name] = placed
        self.steps = max(self.steps, placed.node)

    def _standard(self, source: Stored, shape: tuple[int, ...]) -> Stored:
        """The same activation stored as its own shape says."""
        return self.plan.rearranged(source, plane(shape), standard_order(shape))

    def _dense_on_the_last_axis(self, operation: Dense, source: Stored) -> Stored:
        """A convolution of a single position, over a plane that has the last axis for channels."""
        *lead, _ = operation.inputs[0]
        weight = self._read(operation.weight)
        (outputs, channels), height, width = weight.shape, math.prod(lead[:-1]), lead[-1]
        rows = self.plan.rearranged(source, (channels, height, width), torch.arange(math.prod(operation.inputs[0])))
        placed = self.plan.convolution(
            rows, (outputs, height, width), weight[:, :, None, None],
            self._read_any(operation.bias),
            [1, 1, 1, 1, 0, 0, 1, 1, 1],
        )  # fmt: skip
        return replace(placed, order=torch.arange(math.prod(operation.shape)))

    def _concatenate(self, operation: Concatenation, sources: Sequence[Stored]) -> Stored:
        """Along another axis than the first: that axis becomes the channels of a plane."""
        before, after = (
            math.prod(axes) for axes in (operation.shape[: operation.axis], operation.shape[operation.axis + 1 :])
        )

        def stored(width: int) -> tuple[tuple[int, int, int], Tensor]:
            order = torch.arange(before * width * after).reshape(before, width, after).transpose(1, 2).flatten()
            return (width, before, after), order

        widths = operation.widths
        parts = [self.plan.rearranged(source, *stored(width)) for source, width in zip(sources, widths, strict=True)]
        plane, order = stored(sum(widths))
        return replace(self.plan.concatenation(parts, operation.shape), plane=plane, order=order)

    def _read(self, value: Value) -> Tensor:
        x = value().detach()
        self.values.append((value, x.clone()))
        return x.to(self.like)

    def _read_any(self, value: Value | None) -> Tensor | None:
        return None if value is None else self._read(value)

    def current(self) -> bool:
        """Whether all weights are what they were. They are compared, which is quick beside packing them: no counter
        tells of every change."""
        now = ((value().detach(), before) for value, before in self.values)
        return all(x.dtype == y.dtype and x.device == y.device and torch.equal(x, y) for x, y in now)


_LOWERED: WeakKeyDictionary[Graph, dict[torch.dtype, Lowered]] = WeakKeyDictionary()


def lower(graph: Graph, like: Tensor) -> Lowered:
    """The graph on the compiled plan: that of last time, as long as its weights stay the same.

    Raises:
        Inexpressible: as :class:`Lowered`.
    """
    kept = _LOWERED.setdefault(graph, {})
    known = kept.get(like.dtype)
    if known is None or known.like.device != like.device or not known.current():
        known = kept[like.dtype] = Lowered(graph, like.new_empty(0))
    return known


def _two(values: tuple[int, ...], missing: int = 1) -> tuple[int, int]:
    return (missing, values[0]) if len(values) == 1 else (values[0], values[1])
