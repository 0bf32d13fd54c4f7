"""Locally biased smoothing of a linear binary classifier (paper, section 3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.sets import Ball
from verifix.sets.base import Norm, check_points
from verifix.smooth.biased.oracle import NearestNeighbour, Oracle
from verifix.smooth.biased.radii import BiasedRadii, Expansion, certified_radii, check_binary, check_number
from verifix.smooth.biased.rounding import DUAL, TINY, dual_norms, gamma


class BiasedLinear:
    """``sign(a . x + b + alpha y(x) ||a||_*)``, with ``y(x)`` the label of the nearest reserved point (equation 4).

    Args:
        a: of the shape of one input, float32 or float64; read as real numbers, as ``b`` and ``alpha`` are.
        b: a number.
        oracle: reserved points with labels -1 and 1.
        alpha: how strong the bias is, in units of the raw input; at least 0.
        norm: of the perturbations, ``linf``, ``l2`` or ``l1``; it decides which dual norm ``||a||_*`` is.

    Raises:
        InvalidValue, InvalidType: what is wrong with an argument, by name.

    >>> oracle = NearestNeighbour(torch.tensor([[-4.0, 0.0], [4.0, 0.0]]), torch.tensor([-1, 1]))
    >>> classifier = BiasedLinear(torch.tensor([1.0, 0.0]), 2.5, oracle, alpha=2.0, norm="l2")
    >>> found = classifier.certify(torch.tensor([[1.0, 0.0], [-3.0, 0.0]]))
    >>> found.predictions.tolist(), found.radii, found.limits.tolist()
    ([1, -1], tensor([1.5000, 2.5000], dtype=torch.float64), ['flip', 'boundary'])
    """

    def __init__(self, a: Tensor, b: float, oracle: NearestNeighbour, *, alpha: float, norm: Norm = "l2") -> None:
        self.oracle, self.alpha, self.norm = check_binary(oracle), check_number("alpha", alpha), Ball(norm, 0.0).norm
        if not isinstance(a, Tensor):
            raise InvalidType("a", a, "a torch.Tensor of the shape of one input")
        if tuple(a.shape) != oracle.shape:
            raise InvalidValue("a", f"tensor of shape {tuple(a.shape)}", f"must be {oracle.shape}, as one input")
        self.a = check_points("a", a.detach()[None]).flatten().double()
        if isinstance(b, bool) or not isinstance(b, (int, float)):
            raise InvalidType("b", b, "a number")
        if not math.isfinite(b):
            raise InvalidValue("b", b, "must be finite")
        self.b = float(b)

    def decision(self, x: Tensor, labels: Oracle | None = None) -> Tensor:
        """``g_mu`` of each input, ``(n,)`` float64, differentiable; its sign is the prediction, and zero is positive.

        Args:
            x: inputs ``(n, *shape)``.
            labels: stands in for the oracle, for attacks that need a gradient of it.
        """
        size = torch.linalg.vector_norm(self.a, ord=DUAL[self.norm])
        return self.oracle.flat(x) @ self.a + self.b + self.alpha * (labels or self.oracle)(x).double() * size

    def predict(self, x: Tensor) -> Tensor:
        """-1 or 1 for each input, ``(n,)`` int64."""
        return torch.where(self.decision(x) < 0, -1, 1)

    def certify(self, x: Tensor, *, tight: bool = True) -> BiasedRadii:
        """The radius within which the prediction cannot change (theorem 6).

        Args:
            x: inputs ``(n, *shape)``, float32 or float64, in raw units.
            tight: with the tightenings T1 to T3 of ``docs/biased-smoothing.md``, which are never smaller; else the
                radius as printed.

        Guaranteed in real arithmetic for all numbers as they are stored.
        """
        found = self.oracle.neighbours(x, self.norm, tight=tight)
        flat = self.oracle.flat(x)
        values = flat @ self.a + self.b
        terms = flat.shape[1]
        errors = gamma(terms + 4) * (flat.abs() @ self.a.abs() + abs(self.b)) + 4 * (terms + 1) * TINY
        lower, upper = (side.expand(len(flat)) for side in dual_norms(self.a[None], self.norm))
        at = Expansion(values, errors, lower, upper, curvature=0.0, within=math.inf, float_sound=True)
        return certified_radii(at, found, self.decision(x), self.alpha, self.norm, tight)
