"""Locally biased smoothing of a differentiable binary classifier (paper, section 4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from verifix.errors import InvalidType, InvalidValue
from verifix.sets import Ball
from verifix.sets.base import Norm
from verifix.smooth.biased.network import refuse_kinks
from verifix.smooth.biased.oracle import NearestNeighbour, Oracle
from verifix.smooth.biased.radii import BiasedRadii, Expansion, certified_radii, check_binary, check_number
from verifix.smooth.biased.rounding import DUAL, down, dual_norms, sum_above


class Base(Protocol):
    """A base classifier ``g`` with a bounded second derivative: :class:`SmoothNetwork` or :class:`SmoothFunction`."""

    def value(self, x: Tensor) -> Tensor:
        """``g`` of inputs ``(n, *shape)``, ``(n,)``, differentiable, each input by itself."""

    def expand(self, x: Tensor, norm: Norm) -> Expansion:
        """What is known of it around inputs, with bounds of what was rounded."""


class SmoothFunction:
    """Any differentiable ``g`` whose gradient has a Lipschitz constant that you know.

    Args:
        function: maps ``(n, *shape)`` float64 to ``(n,)``, each input by itself, differentiable by autograd.
        curvature: a constant L with ``||grad g(x) - grad g(x')||_* <= L ||x - x'||``, in the norm that radii are
            measured in; it is believed.
        within: the radius of the ball around each input on which it holds; radii end there. Everywhere by default.
        value_error: how far a computed value may be from the truth.
        gradient_error: how far a computed gradient may be, in the dual norm. Where one of the two is not given, radii
            are computed as if there were no such error, and are marked as not ``float_sound``.

    Raises:
        UnsupportedOperation: a module with ReLU or another layer whose gradient jumps.
        InvalidValue, InvalidType: what is wrong with an argument, by name.

    >>> bowl = SmoothFunction(lambda x: 1 - x.square().sum(1), curvature=2.0)
    >>> bowl.expand(torch.tensor([[0.5, 0.0]]).double(), "l2").values
    tensor([0.7500], dtype=torch.float64)
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        curvature: float,
        *,
        within: float = math.inf,
        value_error: float | None = None,
        gradient_error: float | None = None,
    ) -> None:
        if not callable(function):
            raise InvalidType("function", function, "a function of a batch of inputs")
        if isinstance(function, nn.Module):
            refuse_kinks(function)
        self.function, self.curvature = function, check_number("curvature", curvature)
        if isinstance(within, bool) or not isinstance(within, (int, float)):
            raise InvalidType("within", within, "a number")
        if not within > 0:
            raise InvalidValue("within", within, "must be above 0")
        self.within = float(within)
        self.value_error = None if value_error is None else check_number("value_error", value_error)
        self.gradient_error = None if gradient_error is None else check_number("gradient_error", gradient_error)

    def value(self, x: Tensor) -> Tensor:
        """``g`` of inputs ``(n, *shape)``, ``(n,)``.

        Raises:
            InvalidValue: the function returns another shape.
        """
        values = self.function(x)
        if not isinstance(values, Tensor):
            raise InvalidType("function", values, "one that returns a torch.Tensor (n,)")
        if values.shape == (len(x), 1):
            values = values[:, 0]
        if values.shape != (len(x),):
            shape = f"output of shape {tuple(values.shape)}"
            raise InvalidValue("function", shape, f"must return ({len(x)},) for so many inputs")
        return values

    def expand(self, x: Tensor, norm: Norm) -> Expansion:
        """Values and gradients in float64 by autograd."""
        values, gradients = _with_gradient(self, x.double(), create_graph=False)
        lower, upper = dual_norms(gradients.detach().flatten(1), norm)
        off = torch.full_like(lower, self.gradient_error or 0.0)
        return Expansion(
            values.detach(), torch.full_like(lower, self.value_error or 0.0), down(lower - off).clamp(min=0),
            sum_above(upper, off), self.curvature, self.within,
            self.value_error is not None and self.gradient_error is not None,
        )  # fmt: skip


class BiasedDifferentiable:
    """``sign(g(x) + alpha y(x) ||grad g(x)||_*)``, with ``y(x)`` the label of the nearest reserved point (equation 5).

    Args:
        base: ``g``, a :class:`SmoothNetwork` or a :class:`SmoothFunction`.
        oracle, alpha, norm: as in :class:`BiasedLinear`.

    Raises:
        InvalidValue, InvalidType: what is wrong with an argument, by name.

    >>> oracle = NearestNeighbour(torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.tensor([1, -1]))
    >>> bowl = SmoothFunction(lambda x: 1 - x.square().sum(1), curvature=2.0)
    >>> found = BiasedDifferentiable(bowl, oracle, alpha=0.5).certify(torch.tensor([[0.5, 0.0]]).double())
    >>> found.radii, found.limits.tolist()  # up to (1, 0) it keeps its sign
    (tensor([0.5000], dtype=torch.float64), ['boundary'])
    """

    def __init__(self, base: Base, oracle: NearestNeighbour, *, alpha: float, norm: Norm = "l2") -> None:
        self.oracle, self.alpha, self.norm = check_binary(oracle), check_number("alpha", alpha), Ball(norm, 0.0).norm
        if not (hasattr(base, "value") and hasattr(base, "expand")):
            raise InvalidType("base", base, "a SmoothNetwork or a SmoothFunction")
        self.base = base

    def decision(self, x: Tensor, labels: Oracle | None = None) -> Tensor:
        """``g_mu`` of each input, ``(n,)`` float64, differentiable; its sign is the prediction, and zero is positive.

        Args:
            x: inputs ``(n, *shape)``.
            labels: stands in for the oracle, for attacks that need a gradient of it.
        """
        self.oracle.flat(x)
        values, gradients = _with_gradient(self.base, x.double(), create_graph=torch.is_grad_enabled())
        size = torch.linalg.vector_norm(gradients.flatten(1), ord=DUAL[self.norm], dim=1)
        return values + self.alpha * (labels or self.oracle)(x).double() * size

    def predict(self, x: Tensor) -> Tensor:
        """-1 or 1 for each input, ``(n,)`` int64."""
        return torch.where(self.decision(x).detach() < 0, -1, 1)

    def certify(self, x: Tensor, *, tight: bool = True) -> BiasedRadii:
        """The radius within which the prediction cannot change (theorem 8).

        Args:
            x: inputs ``(n, *shape)``, float32 or float64, in raw units.
            tight: with the tightenings T1 to T4 of ``docs/biased-smoothing.md``, which are never smaller; else the
                radius as printed.

        Guaranteed in real arithmetic for all numbers as they are stored where the result is ``float_sound``.
        """
        found = self.oracle.neighbours(x, self.norm, tight=tight)
        with torch.no_grad():
            decisions = self.decision(x)
        at = self.base.expand(x.detach().double(), self.norm)
        return certified_radii(at, found, decisions, self.alpha, self.norm, tight)


def _with_gradient(base: Base, x: Tensor, create_graph: bool) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x if x.requires_grad and create_graph else x.detach().requires_grad_(True)
        values = base.value(x)
        if not values.requires_grad:  # a constant
            return values, torch.zeros_like(x)
        (gradients,) = torch.autograd.grad(values.sum(), x, create_graph=create_graph, materialize_grads=True)
    return (values, gradients) if create_graph else (values.detach(), gradients)
