"""Starts and steps of attacks by gradients, in the geometry of the set."""

from __future__ import annotations

import torch
from torch import Tensor

from verifix.attack.base import per_input
from verifix.draws import Draws
from verifix.sets import InputSet, LpBall


def radius(sets: InputSet) -> Tensor:
    """The size of each set, ``(n,)`` float64: the (largest) eps of a ball, else half the longest side of the hull."""
    if isinstance(sets, LpBall):
        return _eps(sets).expand_as(sets.center).flatten(1).amax(1)
    lower, upper = sets.hull()
    return (upper.double() - lower.double()).flatten(1).amax(1) / 2


def _eps(sets: LpBall) -> Tensor:
    """The radii, ``(n or 1, ...)`` float64, no larger than the sum of the sides of the hull: a radius far beyond the
    box is none that points of the inputs' type can be computed with."""
    lower, upper = sets.hull()
    across = (upper.double() - lower.double()).flatten(1).sum(1)
    return torch.minimum(sets.eps, per_input(across, lower))


def random_start(sets: InputSet, draws: Draws, who: Tensor, *, sample: int, inside: bool = True) -> Tensor:
    """A random point of each set, ``(k, *shape)``; ``sets`` are those of ``who``.

    Uniform in an l2 or l1 ball, then projected into the box; of other sets, uniform in the hull, then projected. In
    l_inf that is uniform in what the box leaves of the ball, or, if not ``inside``, uniform in the ball and then
    clipped, as published attacks begin: half of the coordinates of a black background stay black then.
    """
    center = sets.center
    if not isinstance(sets, LpBall) or sets.norm == "linf":
        lower, upper = sets.hull()
        if isinstance(sets, LpBall) and not inside:
            eps = _eps(sets).to(center)
            lower, upper = center - eps, center + eps
        unit = draws.uniform(who, lower, sample=sample)
        return sets.project(lower + (unit + 1) / 2 * (upper - lower))
    count = center[0].numel()
    share = (draws.words(who, 1, sample=sample, tag=1).double() + 0.5) / 2**32
    if sets.norm == "l2":
        direction = draws.normal(who, center.double(), sample=sample)
        size = direction.flatten(1).norm(dim=1)
    else:  # uniform on the sphere of l1: signed exponentials, divided by their sum
        unit = draws.uniform(who, center.double(), sample=sample)
        direction = -unit.sign() * (1 - unit.abs()).clamp(min=2.0**-24).log().neg()
        size = direction.flatten(1).abs().sum(1)
    length = share[:, 0].pow(1 / count) / size.clamp(min=torch.finfo(torch.float64).tiny)
    return sets.project((center.double() + _eps(sets) * direction * per_input(length, direction)).to(center.dtype))


def steepest(
    sets: InputSet, points: Tensor, gradient: Tensor, kept: Tensor | None = None, *, projected: bool = False
) -> Tensor:
    """The step of the set's norm along which a linear loss grows most, ``(k, *shape)``, for a radius of 1 times eps.

    Weighted balls: the radius is 1 where eps is largest. l_inf: signs. l2: the normalised gradient. l1: ``kept``
    ``(k,)`` coordinates of the largest gradients share the step (1 by default); coordinates at a side of the box that
    the step would leave are no candidates (thesis, section 5.3.4; by the sign of the gradient, as Croce and Hein 2021
    ask for).

    Args:
        projected: whether a Euclidean projection follows, step after step. Then the weights of an l2 ball have no part:
            with steps of one metric and projections of another, descent would settle at a point that is not the best.
    """
    tiny = torch.finfo(gradient.dtype).tiny
    if not isinstance(sets, LpBall):
        lower, upper = sets.hull()
        widths = (upper - lower) / 2
        return gradient.sign() * widths / per_input(widths.flatten(1).amax(1).clamp(min=tiny), widths)
    most = per_input(sets.eps.flatten(1).amax(1).clamp(min=tiny), sets.eps)
    weights = (sets.eps / most).to(gradient).expand_as(gradient)  # in float64: eps may be beyond other types
    if sets.norm == "linf":
        return weights * gradient.sign()
    if projected and sets.norm == "l2":
        weights = (weights > 0).to(gradient)
    scaled = gradient * weights
    if sets.norm == "l2":
        largest = per_input(scaled.flatten(1).abs().amax(1), scaled)
        scaled = scaled / torch.where(largest > 0, largest, 1.0)  # the squares can neither underflow nor overflow
        size = torch.linalg.vector_norm(scaled.flatten(1), dim=1)
        return weights * scaled / per_input(size.clamp(min=1.0), scaled)
    if sets.box is not None:
        lower, upper = (side.to(points.dtype) for side in sets.box)
        stuck = ((gradient < 0) & (points <= lower)) | ((gradient > 0) & (points >= upper))
        scaled = torch.where(stuck, 0.0, scaled)
    flat = scaled.flatten(1)
    kept = torch.ones(len(flat), dtype=torch.int64, device=flat.device) if kept is None else kept
    order = flat.abs().sort(dim=1, descending=True, stable=True).indices
    places = torch.arange(flat.shape[1], device=flat.device).expand_as(flat)
    chosen = torch.zeros_like(flat, dtype=torch.bool).scatter(1, order, places < kept[:, None])
    chosen &= flat != 0
    counts = chosen.sum(1, keepdim=True).clamp(min=1)
    return weights * (flat.sign() * chosen / counts).reshape_as(gradient)
