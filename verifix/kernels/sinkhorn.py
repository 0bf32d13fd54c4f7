"""Projected and conjugate Sinkhorn: entropic projection onto the Wasserstein ball, and entropic linear maximisation.

Algorithm 8 of Wong's thesis (sections 5.1.4 and 5.1.6) in a form that cannot overflow, that stops on true residuals and
that returns points of the ball only; docs/wasserstein-sinkhorn.md has the derivation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.kernels import sinkhorn_native, sinkhorn_reference


@dataclass(frozen=True)
class SinkhornResult:
    """What :func:`projected_sinkhorn` found; for each image, ``(n,)``, but for z."""

    z: Tensor
    """``(n, C, H, W)`` in the type of x: points of the ball."""
    column_residual: Tensor
    """``||z - (w - beta / lambda)||_1`` over the mass of the image: 0 at the optimum."""
    plan_cost: Tensor
    """Cost of the plan that leads from x to z, at most the budget."""
    multiplier: Tensor
    """psi, for images of mass 1."""
    sweeps: Tensor
    """Updates of beta, int64."""
    converged: Tensor
    """Whether columns and cost are right to the tolerance, bool. z is in the ball whether or not."""


@dataclass(frozen=True)
class ConjugateResult:
    """What :func:`conjugate_sinkhorn` found; for each image, ``(n,)``, but for z."""

    z: Tensor
    """``(n, C, H, W)`` in the type of x: points of the ball."""
    value: Tensor
    """``<g, z>``."""
    upper: Tensor
    """No less than ``<g, z>`` for any z of the ball, in real arithmetic, whether converged or not."""
    plan_cost: Tensor
    """Cost of the plan that leads from x to z, at most the budget."""
    multiplier: Tensor
    """psi."""
    sweeps: Tensor
    """Steps of psi, int64."""
    converged: Tensor
    """Whether the cost is right to the tolerance, bool."""


def projected_sinkhorn(
    x: Tensor,  # (n, C, H, W)
    w: Tensor,  # (n, C, H, W)
    cost: Tensor,  # (K,)
    budget: Tensor,  # (n,)
    *,
    regularisation: float = 1000.0,
    tolerance: float = 1e-3,
    max_sweeps: int = 1000,
    relaxation: float = 1.9,
    momentum: float = 0.35,
) -> SinkhornResult:
    """Project w onto the local Wasserstein ball around x, with an entropy of weight ``1 / regularisation``.

    Minimises ``lambda / 2 ||w - z||^2 + sum plan log plan`` over plans with rows x, columns z and cost at most the
    budget, all divided by the mass of x over all channels, as the paper does: lambda is for images of mass 1. The
    entropy keeps z well inside the ball: at lambda 1000 a quarter of the budget is used, see docs.

    z is always in the ball in real arithmetic, up to the rounding of its entries: rows are scaled to x in float64, and
    where the plan is too dear, part of the mass stays where it was. An image that is all zero, or with budget 0, is its
    own projection. An image with a NaN, an infinity or a negative value, or in w, or a budget that is no number >= 0,
    gets NaN and is not converged.

    Args:
        x: ``(n, C, H, W)`` float32 or float64, nonnegative.
        w: the points to project, of the shape and type of x; any sign.
        cost: ``(K,)`` float64 for the K = k * k offsets of a k x k window, k odd: finite, 0 at the center and positive
            elsewhere. Costs that depend on ``|di|`` and ``|dj|`` alone, k at most 7, are much faster.
        budget: ``(n,)`` float64, in the units of x times those of cost.
        regularisation: lambda > 0. Sweeps grow with lambda times the largest change of a pixel (mass 1): a few dozen
            for a step of an attack at lambda 1000, thousands where the product is 100. Beta is held at 340 in size.
        tolerance: on the column residual, and on the cost relative to the budget.
        max_sweeps: >= 0.
        relaxation, momentum: steps of beta are ``relaxation * step + momentum * last``, 0 < relaxation < 2,
            0 <= momentum < 1; momentum grows with the sweeps, and a plain step (1, 0) follows where the residual grew.

    Raises:
        InvalidType, InvalidValue: an argument is not of the type, shape or range above. Entries of x, w and budget are
            not looked at.

    >>> x = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    >>> x[0, 0, 1, 1] = 1
    >>> w = x.roll(1, 3)
    >>> cost = torch.tensor([2.0, 1, 2, 1, 0, 1, 2, 1, 2], dtype=torch.float64)
    >>> eps = torch.tensor([0.25], dtype=torch.float64)
    >>> found = projected_sinkhorn(x, w, cost, eps, regularisation=10.0, tolerance=1e-6)
    >>> found.z[0, 0, 1].round(decimals=3).tolist(), bool(found.converged)
    ([0.0, 0.75, 0.25], True)
    """
    numbers = {"regularisation": regularisation, "tolerance": tolerance, "relaxation": relaxation, "momentum": momentum}
    for name, number in numbers.items():
        _check_number(name, number)
    found = torch.ops.verifix.projected_sinkhorn(
        *_tensors(x=x, w=w, cost=cost, budget=budget), regularisation, tolerance, max_sweeps, relaxation, momentum
    )
    return SinkhornResult(*found)


def conjugate_sinkhorn(
    x: Tensor,  # (n, C, H, W)
    g: Tensor,  # (n, C, H, W)
    cost: Tensor,  # (K,)
    budget: Tensor,  # (n,)
    *,
    regularisation: float = 1000.0,
    tolerance: float = 1e-6,
    max_sweeps: int = 100,
) -> ConjugateResult:
    """Maximise ``<g, z>`` over the local Wasserstein ball around x, with an entropy of weight ``1 / regularisation``.

    For comparison with the exact support function (:mod:`verifix.kernels.transport_linear`), which is faster, needs no
    entropy, and whose bound is tighter. Thesis, section 5.1.6: beta is ``lambda g``, so that only the multiplier has to
    be found. Lambda is in units of 1 over those of g. ``upper`` comes from the dual without entropy at the multiplier
    that was found, psi / lambda, which is a bound at any multiplier (weak duality); its rounding is added to it.

    Everything is computed in float64. Unusable images are treated as by :func:`projected_sinkhorn`.

    Args:
        x, cost, budget: as for :func:`projected_sinkhorn`.
        g: linear forms, of the shape and type of x.
        regularisation: lambda > 0.
        tolerance: on the cost, relative to the budget.
        max_sweeps: steps of the multiplier, >= 0.

    Raises:
        InvalidType, InvalidValue: as for :func:`projected_sinkhorn`.

    >>> x = torch.ones(1, 1, 1, 2, dtype=torch.float64)
    >>> g = torch.tensor([[[[0.0, 1.0]]]], dtype=torch.float64)
    >>> cost = torch.tensor([2.0, 1, 2, 1, 0, 1, 2, 1, 2], dtype=torch.float64)
    >>> found = conjugate_sinkhorn(x, g, cost, torch.tensor([0.5], dtype=torch.float64))
    >>> found.z.round(decimals=3).tolist(), round(float(found.upper), 3)
    ([[[[0.5, 1.5]]]], 1.5)
    """
    for name, number in {"regularisation": regularisation, "tolerance": tolerance}.items():
        _check_number(name, number)
    found = torch.ops.verifix.conjugate_sinkhorn(
        *_tensors(x=x, g=g, cost=cost, budget=budget), regularisation, tolerance, max_sweeps
    )
    return ConjugateResult(*found)


def _tensors(**tensors: Tensor) -> list[Tensor]:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise InvalidType(name, tensor, "a torch.Tensor")
    return list(tensors.values())


def _check_number(name: str, number: object) -> None:
    if not isinstance(number, (int, float)) or isinstance(number, bool):
        raise InvalidType(name, number, "a number")


def _check(x: Tensor, w: Tensor, cost: Tensor, budget: Tensor, second: str) -> None:
    if x.dim() != 4:
        raise InvalidValue("x.shape", tuple(x.shape), "must be (n, channels, height, width)")
    if x.dtype not in (torch.float32, torch.float64):
        raise InvalidValue("x.dtype", x.dtype, "must be torch.float32 or torch.float64, convert it with x.float()")
    if w.shape != x.shape or w.dtype != x.dtype or w.device != x.device:
        given, wanted = f"{w.dtype} {tuple(w.shape)} on {w.device}", f"{x.dtype} {tuple(x.shape)} on {x.device}"
        raise InvalidValue(second, given, f"must be as x, {wanted}")
    k = math.isqrt(cost.numel())
    if cost.dim() != 1 or k * k != len(cost) or k % 2 == 0:
        raise InvalidValue("cost.shape", tuple(cost.shape), "must be (k * k,) for a window of odd size k")
    if cost.dtype != torch.float64 or cost.device != x.device:
        raise InvalidValue("cost", f"{cost.dtype} on {cost.device}", f"must be torch.float64 on {x.device}")
    if tuple(budget.shape) != x.shape[:1] or budget.dtype != torch.float64 or budget.device != x.device:
        given = f"{budget.dtype} {tuple(budget.shape)} on {budget.device}"
        raise InvalidValue("budget", given, f"must be ({len(x)},) torch.float64 on {x.device}")


def _check_costs(cost: Tensor) -> None:
    """Where that needs no waiting; a CUDA device gives NaN for costs that cannot be."""
    if cost.device.type != "cpu":
        return
    center = len(cost) // 2
    others = torch.cat((cost[:center], cost[center + 1 :]))
    if float(cost[center]) != 0 or not bool(((others > 0) & (others < math.inf)).all()):
        raise InvalidValue("cost", cost.tolist(), "must be 0 at the center of the window, positive elsewhere")


def _check_rule(regularisation: float, tolerance: float, max_sweeps: int) -> None:
    if not 0 < regularisation < math.inf:
        raise InvalidValue("regularisation", regularisation, "must be a number > 0")
    if not 0 <= tolerance < math.inf:
        raise InvalidValue("tolerance", tolerance, "must be a number >= 0")
    if max_sweeps < 0:
        raise InvalidValue("max_sweeps", max_sweeps, "must be at least 0")


def _projected(
    x: Tensor, w: Tensor, cost: Tensor, budget: Tensor, regularisation: float, tolerance: float, max_sweeps: int,
    relaxation: float, momentum: float, *, run: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    _check(x, w, cost, budget, "w")
    _check_rule(regularisation, tolerance, max_sweeps)
    if not 0 < relaxation < 2:
        raise InvalidValue("relaxation", relaxation, "must be above 0 and below 2")
    if not 0 <= momentum < 1:
        raise InvalidValue("momentum", momentum, "must be from 0 to below 1")
    if run is None:
        return sinkhorn_native.outputs(x, 3)
    _check_costs(cost)
    rule = sinkhorn_reference.Rule(regularisation, tolerance, max_sweeps, relaxation, momentum)
    out: tuple[Tensor, ...] = run.projected_sinkhorn(x, w, cost, budget, rule)
    return out


def _conjugate(
    x: Tensor, g: Tensor, cost: Tensor, budget: Tensor, regularisation: float, tolerance: float, max_sweeps: int,
    *, run: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    _check(x, g, cost, budget, "g")
    _check_rule(regularisation, tolerance, max_sweeps)
    if run is None:
        return sinkhorn_native.outputs(x, 4)
    _check_costs(cost)
    out: tuple[Tensor, ...] = run.conjugate_sinkhorn(x, g, cost, budget, regularisation, tolerance, max_sweeps)
    return out


_NUMBERS = "Tensor cost, Tensor budget, float regularisation, float tolerance, int max_sweeps"
_SCHEMAS = {
    "projected_sinkhorn": (
        f"(Tensor x, Tensor w, {_NUMBERS}, float relaxation, float momentum)"
        " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    "conjugate_sinkhorn": (
        f"(Tensor x, Tensor g, {_NUMBERS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
}


def _define(name: str, checked: Any) -> None:
    """One operator: the same checks before the fake, the reference and the native code."""

    def with_(run: Any) -> Any:
        return lambda *arguments: checked(*arguments, run=run)

    torch.library.define(f"verifix::{name}", _SCHEMAS[name])
    torch.library.register_fake(f"verifix::{name}", with_(None))
    torch.library.register_kernel(f"verifix::{name}", "default", with_(sinkhorn_reference))
    torch.library.register_kernel(f"verifix::{name}", "cpu", with_(sinkhorn_native.cpu))
    torch.library.register_kernel(f"verifix::{name}", "cuda", with_(sinkhorn_native.cuda))


_define("projected_sinkhorn", _projected)
_define("conjugate_sinkhorn", _conjugate)
