"""Networks, sets and rows that the compiled pass can express, drawn by hypothesis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.bounds.cases import SLOPES
from tests.networks import Builder, Source, activation, affine
from verifix.graph import Graph
from verifix.graph.lowering import moved
from verifix.operations import (
    Convolution,
    Levels,
    Nonlinear,
    Relaxation,
    Shape,
    Slopes,
    TwoPiece,
    fixed,
)

METHODS = tuple(
    f"{intermediate}:{slopes}" for intermediate in ("interval", "backward", "both", "filtered") for slopes in SLOPES
)


class PlanBuilder(Builder):
    """Grows graphs of what a plan has steps for."""

    def layer(self) -> None:
        name = self.some()
        shape = self.shape_of(name)
        self.place(name, activation(self.source) if self.source.choose(True, False) else self.linear(shape))

    def linear(self, shape: Shape) -> nn.Module:
        return affine(self.source, shape) if len(shape) < 4 else nn.Linear(shape[-1], self.source.between(1, 4))

    def convolution(self) -> None:
        """A layer with more channels than a vector has lanes, now and then."""
        name = self.some()
        shape = self.shape_of(name)
        if len(shape) not in (2, 3):
            return self.layer()
        groups = self.source.choose(*(g for g in (1, 2) if shape[0] % g == 0))
        channels = groups * self.source.choose(1, 5, 8, 9, 16, 20)
        weight = self.source.normal(channels, shape[0] // groups, *[self.source.between(1, 3) for _ in shape[1:]])
        padding = tuple(self.source.between(k - 1, k) for k in weight.shape[2:])
        stride, dilation = (tuple(self.source.between(1, 2) for _ in padding) for _ in range(2))
        bias = self.source.choose(None, fixed(self.source.normal(channels)))
        padding = tuple(p * d for p, d in zip(padding, dilation, strict=True))
        self.add(Convolution(shape, fixed(weight), bias, stride, padding, dilation, groups), name)

    def movement(self) -> None:
        """Also back from flat, and to one axis more than an image has."""
        name = self.some()
        shape = self.shape_of(name)
        if len(shape) == 1 and self.source.choose(True, False):
            size = shape[0]
            height = self.source.choose(*(k for k in range(1, size + 1) if size % k == 0))
            self.add(moved(shape, lambda x: x.unflatten(1, (height, -1)).unsqueeze(1)), name)
        elif len(shape) == 3 and self.source.choose(True, False, False):
            axis = self.source.between(1, 4)
            self.add(moved(shape, lambda x: x.unsqueeze(1).transpose(1, axis)), name)
        elif len(shape) == 4:
            self.add(moved(shape, lambda x: x.flatten(1, 2)), name)
        else:
            super().movement()

    def grow(self) -> None:
        steps = (
            self.layer, self.layer, self.convolution, self.convolution, self.convolution, self.piecewise,
            self.sum, self.concatenation, self.scaling, self.movement, self.reduction,
        )  # fmt: skip
        self.source.choose(*steps)()


@st.composite
def expressible(draw: st.DrawFn, steps: int = 7, most: int = 250, wild: bool = False) -> Graph:
    """A directed acyclic graph that a plan can hold."""
    builder = PlanBuilder(Source(draw, wild))
    for _ in range(draw(st.integers(1, steps))):
        builder.grow()
        if math.prod(builder.shape_of(next(reversed(builder.nodes)))) > most:
            break
    return builder.finish()


def some_rows(shape: tuple[int, ...], n: int, kind: str, dtype: torch.dtype) -> Tensor | None:
    """None (the unit rows), rows that all inputs share, or rows of each input; not contiguous."""
    if kind == "unit":
        return None
    generator = torch.Generator().manual_seed(len(shape))
    count = {"shared": 3, "each": 9, "many": 19, "expanded": 2}[kind]
    lead = 1 if kind in ("shared", "expanded") else n
    rows = torch.randn(*reversed(shape), count, lead, generator=generator, dtype=torch.float64).to(dtype)
    rows = rows.permute(*reversed(range(rows.dim())))
    rows[:, 0] = torch.round(rows[:, 0])
    return rows.expand(n, *[-1] * (rows.dim() - 1)) if kind == "expanded" else rows


def unit_rows(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    size = math.prod(shape)
    return torch.eye(size, dtype=dtype).reshape(1, size, *shape)


def assert_within(native: Tensor | None, other: Tensor | None, error: Tensor) -> None:
    """Both are within what is allowed of the same real number; bounds of entries may be in the shape of the node."""
    assert native is not None
    assert other is not None
    native, other = native.reshape(error.shape), other.reshape(error.shape)
    assert torch.isfinite(native).all()
    assert ((native.double() - other.double()).abs() <= error.double()).all()


ROWS = ("unit", "shared", "each", "many", "expanded")


def same_bits(a: Tensor, b: Tensor) -> bool:
    kind = torch.int32 if a.dtype == torch.float32 else torch.int64
    return torch.equal(a.view(kind), b.view(kind))


class Largest(Nonlinear):
    """The largest of all entries, by its interval: an operation that the plan has no step for."""

    def __init__(self, shape: Shape) -> None:
        self.inputs, self.shape = (shape,), (1,)

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].flatten(1).amax(1, keepdim=True)

    def interval(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return self.forward(lowers[0]), self.forward(uppers[0])

    def lines(self, lower: Tensor, upper: Tensor, slopes: Slopes) -> Relaxation:
        return Levels(*self.interval([lower], [upper]))


class FlatReLU(TwoPiece):
    """ReLU by its interval, whatever the rule: a relaxation that the plan has no lines for."""

    def lines(self, lower: Tensor, upper: Tensor, slopes: Slopes) -> Relaxation:
        return super().lines(lower, upper, "constant")
