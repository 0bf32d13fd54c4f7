"""Random small networks of every operation, drawn by hypothesis: chains of torch layers, and graphs with branches."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import TypeVar

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from verifix.graph import INPUT, Graph, Node
from verifix.graph.lowering import moved
from verifix.graph.sequential import walk
from verifix.operations import (
    Clip,
    Concatenation,
    Dense,
    Operation,
    Reduction,
    Scaling,
    Shape,
    Sum,
    TwoPiece,
    fixed,
)

T = TypeVar("T")
SHAPES: tuple[Shape, ...] = ((2,), (1, 4, 4), (2, 4), (2, 3, 4), (1, 3, 3), (4,), (1, 5), (2, 4, 4), (1,))


EVEN = 2**20
"""Draws up to here are spread evenly; from larger ranges hypothesis prefers small numbers."""


def count(draw: st.DrawFn, low: int, high: int) -> int:
    return low + draw(st.integers(0, EVEN)) % (high - low + 1)


class Source:
    """Choices and numbers from one seed that hypothesis draws; all numbers are exact in float32.

    Not a draw for each choice: those repeat themselves, and rare layers would hardly be met. How many steps a network
    has is drawn, so that failures shrink. On the lattice all numbers are multiples of 1/4: ties, zeros and
    pre-activations that end at a kink are then common.
    """

    def __init__(self, draw: st.DrawFn, wild: bool = False) -> None:
        self.wild = wild
        seed = draw(st.integers(0, EVEN))
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.lattice = draw(st.booleans())
        self.usual_scale = draw(st.sampled_from((1.0, 0.3, 5.0)))

    @property
    def scale(self) -> float:
        """How large weights are; in a wild network every layer has its own order of magnitude."""
        return self.choose(1.0, 1e-3, 1e3, 1e-6, 1e6, 1e-20, 1e20) if self.wild else self.usual_scale

    def choose(self, *options: T) -> T:
        return self.random.choice(options)

    def between(self, low: int, high: int) -> int:
        return self.random.randint(low, high)

    def normal(self, *shape: int) -> Tensor:
        numbers = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return torch.round(numbers * 4) / 4 if self.lattice else numbers.float().double()

    def uniform(self, *shape: int) -> Tensor:
        numbers = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return torch.round(numbers * 4) / 4 if self.lattice else numbers.float().double()


def randomise(module: nn.Module, source: Source) -> None:
    """Give every parameter and every stored statistic a value of its own, exact in float32."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            fan_in = max(1, math.prod(parameter.shape[1:])) if parameter.dim() > 1 else 1
            size = source.scale if name.endswith("weight") or source.wild else 1.0
            parameter.copy_((source.normal(*parameter.shape) * size / fan_in**0.5).float())
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(source.normal(*buffer.shape))
            elif name.endswith("running_var"):
                buffer.copy_(2 * source.uniform(*buffer.shape))  # a variance of zero among them


def activation(source: Source) -> nn.Module:
    """Any activation that is a torch layer."""
    return source.choose(
        nn.ReLU(), nn.ReLU(), nn.LeakyReLU(0.1), nn.LeakyReLU(2.5), nn.LeakyReLU(-0.3), nn.LeakyReLU(1.0),
        nn.Hardtanh(), nn.Hardtanh(-0.25, 0.7), nn.ReLU6(), nn.Sigmoid(), nn.Sigmoid(), nn.Tanh(), nn.Tanh(),
    )  # fmt: skip


def affine(source: Source, shape: Shape) -> nn.Module:
    """Any affine torch layer, or pooling, that fits a shape."""
    bias = source.choose(True, False)
    if len(shape) == 1:
        return source.choose(nn.Linear(shape[0], source.between(1, 5), bias), nn.BatchNorm1d(shape[0], affine=bias))
    kinds = ["convolution"] * 3 + ["maximum"] * 3 + ["average"] * 2 + ["normalisation", "adaptive", "pad", "linear"]
    kind = source.choose(*kinds)
    if kind == "maximum" and len(shape) == 2:
        kind = "flatten"
    if kind == "linear":
        return nn.Linear(shape[-1], source.between(1, 4), bias)
    if kind == "flatten":
        return nn.Flatten()
    if kind == "normalisation":
        return (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(shape[0], affine=bias)
    space = shape[1:]
    if kind == "adaptive":
        sizes = tuple(source.between(1, size) for size in space)
        return nn.AdaptiveAvgPool1d(sizes[0]) if len(space) == 1 else nn.AdaptiveAvgPool2d(sizes)
    if kind == "convolution":
        return _convolution(source, shape, bias)
    if kind == "average":
        return _average(source, space)
    if len(space) == 1:
        return nn.Identity()  # there is no padding layer to walk
    return _maximum(source, space) if kind == "maximum" else nn.ZeroPad2d(tuple(source.between(0, 1) for _ in range(4)))


def _convolution(source: Source, shape: Shape, bias: bool) -> nn.Module:
    groups = source.choose(*(g for g in (1, 2) if shape[0] % g == 0))
    padding = tuple(source.between(0, 2) for _ in shape[1:])
    dilation = tuple(source.between(1, 2) for _ in shape[1:])
    fits = [
        max(k for k in (1, 2, 3) if d * (k - 1) < s + 2 * p)
        for s, p, d in zip(shape[1:], padding, dilation, strict=True)
    ]
    kernel = tuple(source.between(1, most) for most in fits)
    stride = tuple(source.between(1, 3) for _ in shape[1:])
    layer = nn.Conv1d if len(shape) == 2 else nn.Conv2d
    return layer(shape[0], groups * source.between(1, 2), kernel, stride, padding, dilation, groups, bias)


def _window(source: Source, space: Shape) -> tuple[Shape, Shape, Shape]:
    kernel = tuple(source.between(1, min(3, size)) for size in space)
    return kernel, tuple(source.between(1, 2) for _ in space), tuple(source.between(0, k // 2) for k in kernel)


def _average(source: Source, space: Shape) -> nn.Module:
    kernel, stride, padding = _window(source, space)
    ceil, count = source.choose(False, True), source.choose(True, False)
    if len(space) == 1:
        return nn.AvgPool1d(kernel, stride, padding, ceil, count)
    return nn.AvgPool2d(kernel, stride, padding, ceil, count, source.choose(None, 3))


def _maximum(source: Source, space: Shape) -> nn.Module:
    kernel, stride, padding = _window(source, space)
    return nn.MaxPool2d(kernel, stride, padding, 1, ceil_mode=source.choose(False, True))


def shape_after(module: nn.Module, shape: Shape) -> Shape:
    with torch.no_grad():
        return tuple(module.eval()(torch.zeros(2, *shape)).shape[1:])


@st.composite
def sequentials(draw: st.DrawFn, depth: int = 5) -> tuple[nn.Sequential, Shape]:
    """An ``nn.Sequential`` (nested now and then) with random parameters, in float32, and its input shape."""
    source = Source(draw)
    start = shape = source.choose(*SHAPES)
    layers: list[nn.Module] = []
    for _ in range(count(draw, 0, depth)):
        layer = activation(source) if source.choose(True, False) else affine(source, shape)
        shape = shape_after(layer, shape)
        layers.append(nn.Sequential(layer) if source.between(0, 9) == 9 else layer)
    layers += [nn.Flatten(), nn.Linear(math.prod(shape), source.between(1, 3))]
    model = nn.Sequential(*layers)
    randomise(model, source)
    return model.eval(), start


def operation_of(module: nn.Module, shape: Shape) -> Operation:
    graph = walk(nn.Sequential(module), shape)
    if graph is None:
        raise ValueError(f"{module} is not a layer that can be walked")
    return graph.nodes["0"].operation


class Builder:
    """Grows a graph node by node; every step may start from any node so far."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.shape = source.choose(*SHAPES)
        self.nodes: dict[str, Node] = {}

    def shape_of(self, name: str) -> Shape:
        return self.shape if name == INPUT else self.nodes[name].shape

    def add(self, operation: Operation, *inputs: str) -> str:
        name = f"{type(operation).__name__.lower()}{len(self.nodes)}"
        self.nodes[name] = Node(name, operation, inputs)
        return name

    def some(self) -> str:
        """A node: the last one more often than not."""
        names = [INPUT, *self.nodes]
        return names[-1] if self.source.choose(True, True, False) else self.source.choose(*names)

    def layer(self) -> None:
        """Any torch layer."""
        self.source.choose(self.activation, self.affine)()

    def activation(self) -> None:
        self.place(self.some(), activation(self.source))

    def affine(self) -> None:
        name = self.some()
        self.place(name, affine(self.source, self.shape_of(name)))

    def place(self, name: str, module: nn.Module) -> None:
        """Append a torch layer after a node, with parameters of its own."""
        randomise(module.double(), self.source)
        self.add(operation_of(module.eval(), self.shape_of(name)), name)

    def piecewise(self) -> None:
        name = self.some()
        shape = self.shape_of(name)
        self.add(
            self.source.choose(
                TwoPiece(shape, -1.0, 1.0), TwoPiece(shape, 0.3, -2.0), Clip(shape, -0.5, math.inf),
                Clip(shape, -math.inf, 0.5), Clip(shape, 0.25, 0.25), Clip(shape, 0.1, 0.9), Clip(shape, -0.3, -0.1),
            ),
            name,
        )  # fmt: skip

    def sum(self) -> None:
        """A residual connection where shapes agree, otherwise a node with itself."""
        name = self.some()
        shape = self.shape_of(name)
        partners = [other for other in [INPUT, *self.nodes] if self.shape_of(other) == shape]
        self.add(Sum([shape, shape], self.source.choose(1.0, -1.0, 0.3, -2.0)), name, self.source.choose(*partners))

    def concatenation(self) -> None:
        name = self.some()
        shape = self.shape_of(name)
        axis = self.source.between(0, len(shape) - 1)
        fits = [n for n in [INPUT, *self.nodes] if _same_but(self.shape_of(n), shape, axis)]
        parts = [name, *(self.source.choose(*fits) for _ in range(self.source.between(1, 2)))]
        self.add(Concatenation([self.shape_of(part) for part in parts], axis), *parts)

    def scaling(self) -> None:
        name = self.some()
        shape = self.shape_of(name)
        scale, shift = self.source.normal(*shape), self.source.normal(*shape)
        self.add(
            Scaling(
                shape, *self.source.choose((fixed(scale), fixed(shift)), (fixed(scale), None), (None, fixed(shift)))
            ),
            name,
        )

    def movement(self) -> None:
        name = self.some()
        shape = self.shape_of(name)
        last = len(shape)
        moves: list[tuple[Callable[[Tensor], Tensor], float]] = [
            (lambda x: F.pad(x, (1, 1), value=-1), self.source.choose(0.0, 0.1, -3.0)),
            (lambda x: x[..., ::2], 0.0),
            (lambda x: x.flip(last), 0.0),
            (lambda x: x.transpose(1, last), 0.0),
            (lambda x: x.repeat_interleave(2, dim=last), 0.0),
            (lambda x: x[:, None], 0.0),
            (lambda x: x.flatten(1), 0.0),
        ]
        function, fill = self.source.choose(*moves[: 5 if len(shape) == 3 else 7])
        self.add(moved(shape, function, fill), name)

    def reduction(self) -> None:
        name = self.some()
        shape = self.shape_of(name)
        axes = self.source.choose(*([axis] for axis in range(len(shape))), list(range(len(shape))))
        self.add(Reduction(shape, axes, True, self.source.choose(1.0, 1 / 3, -0.5)), name)

    def grow(self) -> None:
        steps = (
            *[self.layer] * 9, self.piecewise, self.piecewise, self.sum, self.sum,
            self.concatenation, self.scaling, self.movement, self.movement, self.reduction,
        )  # fmt: skip
        self.source.choose(*steps)()

    def finish(self) -> Graph:
        """Close with a dense layer."""
        name = next(reversed(self.nodes), INPUT)
        flat = self.add(moved(self.shape_of(name), lambda x: x.flatten(1)), name)
        size = self.shape_of(flat)[0]
        weight = (self.source.normal(self.source.between(1, 3), size) * self.source.scale / size**0.5).float()
        self.add(Dense((size,), fixed(weight), fixed(self.source.normal(len(weight)))), flat)
        return Graph(self.shape, self.nodes.values())


def _same_but(a: Shape, b: Shape, axis: int) -> bool:
    return len(a) == len(b) and all(i == axis or x == y for i, (x, y) in enumerate(zip(a, b, strict=True)))


@st.composite
def graphs(draw: st.DrawFn, steps: int = 8, most: int = 120, wild: bool = False) -> Graph:
    """A directed acyclic graph with random parameters: residual and dense connections, every operation."""
    builder = Builder(Source(draw, wild))
    for _ in range(count(draw, 1, steps)):
        builder.grow()
        if math.prod(builder.shape_of(next(reversed(builder.nodes)))) > most:
            break
    return builder.finish()


def relu_network(widths: tuple[int, ...], seed: int, scale: float = 1.0, bias: float = 0.3) -> nn.Sequential:
    """A fully connected ReLU network in float64."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        linear = nn.Linear(inputs, outputs).double()
        with torch.no_grad():
            linear.weight.copy_(
                torch.randn(outputs, inputs, generator=generator, dtype=torch.float64) * scale / inputs**0.5
            )
            linear.bias.copy_(torch.randn(outputs, generator=generator, dtype=torch.float64) * bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
