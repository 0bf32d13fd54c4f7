"""Linear forms over balls of local transport plans: the largest value, from above, and an image that attains it.

The ball around an image x of C planes holds what plans make of it that move mass inside a plane, along the offsets of a
k x k window, at a cost of at most the budget. Offset d = (di + r) * k + dj + r, r = k // 2, leads from pixel (i, j) to
(i + di, j + dj); ``cost[d]`` is the cost of moving one unit of mass along it. No mass leaves the image, and none is
lost. docs/wasserstein.md has the method.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.kernels import transport_linear_native, transport_linear_reference


def linear_support(
    x: Tensor,  # (n, C, H, W)
    g: Tensor,  # (r, C, H, W)
    which: Tensor,  # (m,)
    cost: Tensor,  # (K,)
    budget: Tensor,  # (n,)
    row: Tensor | None = None,  # (m,)
) -> tuple[Tensor, Tensor]:
    """Upper bounds of ``max <g[row[k]], z>`` over the ball around ``x[which[k]]``: ``(upper, multiplier)``, ``(m,)``.

    In real arithmetic ``upper`` is at least the maximum, and it is at most ``1e-12 sum |g| z`` above it, with the sum
    over the images z that the search meets, for images of up to 10,000 pixels. A NaN in a row makes it NaN, an infinite
    entry infinite; a NaN or negative number in an image or budget NaN.

    Args:
        x: ``(n, C, H, W)`` float32 or float64, nonnegative and finite.
        g: ``(r, C, H, W)`` of the type of x, finite. Where it is zero outside of a small box, less is to do.
        which: ``(m,)`` int64, from 0 to n - 1.
        cost: ``(K,)`` float64, K = k * k with k odd; finite, nonnegative, zero at the center.
        budget: ``(n,)`` float64, in units of x times those of cost.
        row: ``(m,)`` int64, from 0 to r - 1; by default all rows in turn, r = m. Pairs with the same row do best one
            after the other.

    Returns:
        float64 ``upper``, and the ``multiplier`` of the budget it belongs to, which is infinite for a budget of zero.

    Raises:
        InvalidType: an argument is not a tensor.
        InvalidValue: an argument is not of the shape, type or device above; on the CPU also an index out of range.

    >>> x = torch.tensor([[[[0.0, 1.0, 0.0]]]])
    >>> cost = torch.tensor([9, 9, 9, 1, 0, 1, 9, 9, 9], dtype=torch.float64)
    >>> which, budget = torch.tensor([0]), torch.tensor([0.25], dtype=torch.float64)
    >>> upper, multiplier = linear_support(x, torch.tensor([[[[0.0, 1.0, 3.0]]]]), which, cost, budget)
    >>> round(float(upper), 9), float(multiplier)
    (1.5, 2.0)
    """
    arguments = _arguments(x, g, which, cost, budget, row)
    upper, multiplier = torch.ops.verifix.linear_support(*arguments)
    return upper, multiplier


def linear_maximiser(
    x: Tensor,  # (n, C, H, W)
    g: Tensor,  # (r, C, H, W)
    which: Tensor,  # (m,)
    cost: Tensor,  # (K,)
    budget: Tensor,  # (n,)
    row: Tensor | None = None,  # (m,)
) -> tuple[Tensor, Tensor, Tensor]:
    """An image of the ball with the largest ``<g[row[k]], z>``: ``(z, value, plan_cost)`` for the same arguments.

    Returns:
        z: ``(m, C, H, W)`` of the type of x: each pixel's mass goes to at most two places. In float64 its plan costs at
            most the budget, and rows sum to x up to the rounding of these sums.
        value: ``(m,)`` float64, ``<g, z>``: below the maximum by at most ``1e-12 sum |g| z``. NaN for a g not finite.
        plan_cost: ``(m,)`` float64, at most the budget.

    >>> x = torch.tensor([[[[0.0, 1.0, 0.0]]]])
    >>> cost = torch.tensor([9, 9, 9, 1, 0, 1, 9, 9, 9], dtype=torch.float64)
    >>> which, budget = torch.tensor([0]), torch.tensor([0.25], dtype=torch.float64)
    >>> z, value, plan_cost = linear_maximiser(x, torch.tensor([[[[0.0, 1.0, 3.0]]]]), which, cost, budget)
    >>> z
    tensor([[[[0.0000, 0.7500, 0.2500]]]])
    """
    arguments = _arguments(x, g, which, cost, budget, row)
    z, value, plan_cost = torch.ops.verifix.linear_maximiser(*arguments)
    return z, value, plan_cost


def _arguments(
    x: Tensor, g: Tensor, which: Tensor, cost: Tensor, budget: Tensor, row: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    for name, tensor in (("x", x), ("g", g), ("which", which), ("cost", cost), ("budget", budget)):
        if not isinstance(tensor, Tensor):
            raise InvalidType(name, tensor, "a torch.Tensor")
    if row is None:
        if g.dim() != 4 or which.shape != (len(g),):
            raise InvalidValue("which.shape", tuple(which.shape), "must be (m,), an image for each of the m rows of g")
        row = torch.arange(len(g), device=g.device)
    if not isinstance(row, Tensor):
        raise InvalidType("row", row, "a torch.Tensor")
    return x, g, which, row, cost, budget


def _check(x: Tensor, g: Tensor, which: Tensor, row: Tensor, cost: Tensor, budget: Tensor) -> None:
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise InvalidValue("x.shape", tuple(x.shape), "must be (n, C, H, W) with pixels")
    if x.dtype not in (torch.float32, torch.float64):
        raise InvalidValue("x.dtype", x.dtype, "must be torch.float32 or torch.float64")
    if g.dim() != 4 or g.shape[1:] != x.shape[1:] or g.dtype != x.dtype:
        raise InvalidValue("g", f"{g.dtype} {tuple(g.shape)}", f"must be {x.dtype} (r, {str(tuple(x.shape[1:]))[1:]}")
    for name, index in (("which", which), ("row", row)):
        if index.dtype != torch.int64 or index.dim() != 1 or len(index) != len(which):
            raise InvalidValue(name, f"{index.dtype} {tuple(index.shape)}", "must be (m,) torch.int64")
    if cost.dtype != torch.float64 or cost.dim() != 1 or math.isqrt(len(cost)) ** 2 != len(cost) or len(cost) % 2 == 0:
        raise InvalidValue("cost", f"{cost.dtype} {tuple(cost.shape)}", "must be (k * k,) torch.float64 with k odd")
    if budget.dtype != torch.float64 or budget.shape != x.shape[:1]:
        raise InvalidValue("budget", f"{budget.dtype} {tuple(budget.shape)}", f"must be ({len(x)},) torch.float64")
    for name, tensor in (("g", g), ("which", which), ("row", row), ("budget", budget)):
        if tensor.device != x.device:
            raise InvalidValue(f"{name}.device", tensor.device, f"must be that of x, {x.device}")


def _check_values(x: Tensor, g: Tensor, which: Tensor, row: Tensor, cost: Tensor) -> None:
    """What costs and indices are, where that can be seen without waiting."""
    if cost.device.type == "cpu":
        bad = ~((cost >= 0) & (cost < 2.0**1000))
        bad[len(cost) // 2] |= cost[len(cost) // 2] != 0
        if bool(bad.any()):
            place = int(bad.nonzero()[0])
            raise InvalidValue(f"cost[{place}]", float(cost[place]), "must be finite and >= 0, and 0 at the center")
    for name, index, end in (("which", which, len(x)), ("row", row, len(g))):
        if index.device.type == "cpu" and bool(((index < 0) | (index >= end)).any()):
            place = int(((index < 0) | (index >= end)).nonzero()[0])
            raise InvalidValue(f"{name}[{place}]", int(index[place]), f"must be from 0 to {end - 1}")


def _define(name: str, results: str, fake: Any) -> None:
    """One operator: the same checks before the fake, the reference and the native code."""

    def checked(run: Any) -> Any:
        def call(x: Tensor, g: Tensor, which: Tensor, row: Tensor, cost: Tensor, budget: Tensor) -> Any:
            _check(x, g, which, row, cost, budget)
            if run is not fake:
                _check_values(x, g, which, row, cost)
            return run(x, g, which, row, cost, budget)

        return call

    schema = f"(Tensor x, Tensor g, Tensor which, Tensor row, Tensor cost, Tensor budget) -> ({results})"
    torch.library.define(f"verifix::{name}", schema)
    torch.library.register_fake(f"verifix::{name}", checked(fake))
    torch.library.register_kernel(f"verifix::{name}", "default", checked(getattr(transport_linear_reference, name)))
    torch.library.register_kernel(f"verifix::{name}", "cpu", checked(getattr(transport_linear_native.cpu, name)))
    torch.library.register_kernel(f"verifix::{name}", "cuda", checked(getattr(transport_linear_native.cuda, name)))


def _fake_support(x: Tensor, g: Tensor, which: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    upper = x.new_empty(len(which), dtype=torch.float64)
    return upper, torch.empty_like(upper)


def _fake_maximiser(x: Tensor, g: Tensor, which: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    value = x.new_empty(len(which), dtype=torch.float64)
    return x.new_empty(len(which), *x.shape[1:]), value, torch.empty_like(value)


_define("linear_support", "Tensor, Tensor", _fake_support)
_define("linear_maximiser", "Tensor, Tensor, Tensor", _fake_maximiser)
