"""What the tests of the engine share: drawn input sets and methods, and points that try to leave the bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import verifix as vx
from tests.networks import Source
from verifix.bounds import NAMED
from verifix.operations import Shape
from verifix.sets import Ball, Box, InputSet, LpBall
from verifix.sets.ball import NORMS

SLOPES = ("same", "adaptive", "zero", "one")
METHODS = (
    *NAMED,
    *(f"{intermediate}:{slopes}" for intermediate in ("interval", "backward", "both", "filtered") for slopes in SLOPES),
    "interval:random",
    "backward:random:p=0.3:q=0.8:seed=1",
    "filtered:optimised:start=same",
    "tight-smooth:slopes=own:steps=2:step=0.4:restarts=2",
    "cap+ibp",
    "crown+crown-ibp+both:zero",
)


def bounds(compiled: bool, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """:func:`verifix.bounds` by the compiled pass, which works without gradients, or by the one in plain torch."""
    with torch.set_grad_enabled(not compiled):
        return vx.bounds(*arguments, **options)


@st.composite
def input_sets(draw: st.DrawFn, shape: Shape, dtype: torch.dtype, most: int = 2) -> InputSet:
    """Balls of every norm, with and without a box, one radius for all, per input or per coordinate; and boxes."""
    source = Source(draw)
    n = source.between(1, most)
    x = source.uniform(n, *shape).to(dtype)
    kind = source.choose("number", "number", "input", "coordinate", "box")
    size = source.choose(0.1, 0.0, 0.7, 3.0)
    if kind == "box":
        return Box(x, x + (size * source.uniform(n, *shape)).to(dtype))
    eps = {
        "number": lambda: size,
        "input": lambda: size * source.uniform(n),
        "coordinate": lambda: size * source.uniform(1, *shape),
    }[kind]()
    box = source.choose(None, None, (0, 1), (x.double() - 0.05, x.double() + 0.3), (-torch.inf, 1))
    return Ball(source.choose(*NORMS), eps, box).around(x)


def extreme(inputs: InputSet, gradient: Tensor) -> Tensor:
    """A point of each set far along a gradient, in float64: the farthest one, unless a box cuts an l1 or l2 ball."""
    if isinstance(inputs, Box):
        return torch.where(gradient >= 0, inputs.upper, inputs.lower).double()
    assert isinstance(inputs, LpBall)
    center = inputs.center.double()
    weight = inputs.eps.expand_as(center)
    scaled = (gradient * weight).flatten(1)
    scaled = scaled / scaled.abs().amax(1, keepdim=True).clamp(min=1e-300)
    if inputs.norm == "linf":
        step = scaled.sign()
    elif inputs.norm == "l2":
        step = scaled / torch.linalg.vector_norm(scaled, dim=1, keepdim=True).clamp(min=1e-300)
    else:
        step = torch.zeros_like(scaled).scatter(1, scaled.abs().argmax(1, keepdim=True), 1.0) * scaled.sign()
    return cut(inputs, center + step.reshape(center.shape) * weight)


def cut(inputs: LpBall, x: Tensor) -> Tensor:
    """Clip to the box, if there is one. The center lies in the box, so no step grows."""
    if inputs.box is None:
        return x
    return torch.minimum(torch.maximum(x, inputs.box[0]), inputs.box[1])


def points(
    inputs: InputSet, function: Callable[[Tensor], Tensor], count: int = 4, steps: int = 4, seed: int = 0
) -> Tensor:
    """Points of each set, in float64, ``(many, n, *shape)``: the center, corners, points of the boundary and of the
    inside; and conditional gradient steps that raise, and that lower, every output of the function."""
    found = [inputs.center.double()[None], _spread(inputs, count, seed), *_ascend(inputs, function, steps)]
    return torch.cat(found)


def _copies(inputs: InputSet, count: int) -> InputSet:
    return inputs.select(torch.arange(len(inputs)).repeat(count))


def _spread(inputs: InputSet, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    many = _copies(inputs, count)
    center = many.center.double()
    vertex = extreme(many, torch.randn(center.shape, generator=generator, dtype=torch.float64))
    other = extreme(many, torch.randn(center.shape, generator=generator, dtype=torch.float64))
    share = torch.rand(len(center), *[1] * (center.dim() - 1), generator=generator, dtype=torch.float64)
    inside = torch.cat([vertex, vertex + share * (other - vertex), center + share * (vertex - center)])
    return inside.reshape(-1, *inputs.center.shape)


def _ascend(inputs: InputSet, function: Callable[[Tensor], Tensor], steps: int) -> Iterator[Tensor]:
    n, outputs = len(inputs), function(inputs.center.double()).shape[1]
    many = _copies(inputs, 2 * outputs)
    goal = torch.cat([torch.eye(outputs), -torch.eye(outputs)]).double().repeat_interleave(n, 0)
    x = many.center.double()
    for step in range(steps):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad((goal * function(x)).sum(), x)
        x = x.detach() + (extreme(many, gradient) - x.detach()) * (1.0 if step == 0 else 2 / (2 + step))
        yield x.reshape(-1, *inputs.center.shape)
