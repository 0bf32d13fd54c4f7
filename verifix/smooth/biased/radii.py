"""The radii of locally biased classifiers, from what is known of the base classifier at the input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.sets.base import Norm
from verifix.smooth.biased.oracle import NearestNeighbour, Neighbours
from verifix.smooth.biased.rounding import UNIT, down, product_above, quotient_below, root_above, sum_above


@dataclass(frozen=True)
class BiasedRadii:
    """What is certified of some inputs: no perturbation of at most that norm changes the prediction.

    Attributes:
        norm: what radii are measured in, in raw units.
        predictions: the smoothed classifier's sign at the input, -1 or 1, ``(n,)`` int64.
        oracle: the oracle's label there, ``(n,)``.
        radii: certified, ``(n,)`` float64, rounded down; zero where nothing is, infinite where nothing can change.
        boundary: within it the smoothed classifier keeps its sign as long as the oracle keeps its label, ``(n,)``.
        neighbour: within it the oracle keeps its label, ``(n,)``; zero at a tie.
        flip: within it the sign stays whatever the oracle says, ``(n,)``; zero with ``tight=False``. The radius is
            ``max(flip, min(boundary, neighbour))``.
        limits: which of the three the radius is: ``boundary``, ``neighbour`` or ``flip``, ``(n,)`` array of strings;
            ``within`` where it ends with the ball on which the curvature of the base classifier is known.
        float_sound: whether the radii hold in real arithmetic for the numbers as they are stored; else they rest on
            values and gradients whose rounding nobody bounded.
    """

    norm: Norm
    predictions: Tensor
    oracle: Tensor
    radii: Tensor
    boundary: Tensor
    neighbour: Tensor
    flip: Tensor
    limits: np.ndarray
    float_sound: bool


@dataclass(frozen=True)
class Expansion:
    """A base classifier ``g`` around some inputs.

    Attributes:
        values: ``g(x)``, ``(n,)`` float64; each within ``value_errors`` of the truth.
        value_errors: ``(n,)``.
        slope_lower, slope_upper: bounds of the dual norm of the gradient, ``(n,)``.
        curvature: a Lipschitz constant of the gradient, from the norm to its dual; zero for linear ``g``.
        within: the radius of the ball around each input on which it holds.
        float_sound: whether errors and bounds are proved.
    """

    values: Tensor
    value_errors: Tensor
    slope_lower: Tensor
    slope_upper: Tensor
    curvature: float
    within: float
    float_sound: bool


def certified_radii(
    at: Expansion, found: Neighbours, decisions: Tensor, alpha: float, norm: Norm, tight: bool
) -> BiasedRadii:
    """Theorem 6 (of curvature zero) and theorem 8, as printed or with T1 to T4 (``docs/biased-smoothing.md``).

    With ``s`` the sign of ``g_mu(x)``, ``G`` the dual norm of the gradient, ``B = alpha L + G``, all radii are of the
    form ``2 m / (B + sqrt(B^2 + 2 q L m))``, with q = 1, or 2 as printed: how far it is at least until the margin m is
    used up. The margin is ``|g_mu(x)|`` for ``boundary`` and ``s g(x) - alpha G`` for ``flip``: what is left of it when
    the oracle turns against ``s``.
    """
    signs = torch.where(decisions < 0, -1, 1)
    own = down(signs * at.values - at.value_errors)
    largest_bias = product_above(alpha, at.slope_upper)
    bias = torch.where(signs == found.labels, down(alpha * at.slope_lower).clamp(min=0), -largest_bias)
    steepness = sum_above(torch.full_like(own, alpha * at.curvature * (1 + 4 * UNIT)), at.slope_upper)
    factor = (2 if tight else 4) * at.curvature

    def radius(margin: Tensor) -> Tensor:
        margin = margin.clamp(min=0)
        square = sum_above(product_above(1.0, steepness * steepness), product_above(factor, margin))
        return quotient_below(2 * margin, sum_above(steepness, root_above(square)))

    boundary = radius(down(own + bias))
    flip = radius(down(own - largest_bias)) if tight else torch.zeros_like(boundary)
    radii = torch.maximum(flip, torch.minimum(boundary, found.radii))
    limits = np.where(
        (radii == boundary).cpu(), "boundary", np.where((radii == found.radii).cpu(), "neighbour", "flip")
    )
    limits = np.where((radii > at.within).cpu(), "within", limits)
    radii = radii.clamp(max=at.within)
    return BiasedRadii(norm, signs, found.labels, radii, boundary, found.radii, flip, limits, at.float_sound)


def check_binary(oracle: object) -> NearestNeighbour:
    """Refuse what is no oracle with labels -1 and 1."""
    if not isinstance(oracle, NearestNeighbour):
        raise InvalidType("oracle", oracle, "a NearestNeighbour")
    wrong = (oracle.labels.abs() != 1).nonzero()[:, 0]
    if len(wrong):
        label = int(oracle.labels[wrong[0]])
        raise InvalidValue("oracle", f"label {label} at {int(wrong[0])}", "a binary classifier needs labels -1 and 1")
    return oracle


def check_number(name: str, value: object) -> float:
    """A finite number of at least zero."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidType(name, value, "a number")
    if not 0 <= value < float("inf"):
        raise InvalidValue(name, value, "must be finite and at least 0")
    return float(value)
