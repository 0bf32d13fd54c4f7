"""The outer polytope of two outputs: what bounds in many directions leave of the plane.

Thesis, figures 3.4 and 3.5: the true set of outputs is not convex, the polytope around it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from verifix.bounds.bounds import bounds
from verifix.bounds.method import MethodLike, exact_methods
from verifix.errors import InvalidValue
from verifix.graph import Graph, capture
from verifix.sets import InputSet

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Polygon:
    """Every output ``f`` of one input set has ``lower <= directions @ (f_a, f_b) <= upper``.

    ``directions`` is ``(k, 2)``, the bounds are ``(k,)``, and ``corners`` ``(m, 2)`` are those of the region, in order.
    """

    directions: Array
    lower: Array
    upper: Array
    corners: Array


def outer_polygons(
    model: nn.Module | Graph,
    inputs: InputSet,
    method: MethodLike = "cap",
    *,
    outputs: tuple[int, int] = (0, 1),
    directions: int = 180,
    memory: int | None = None,
) -> list[Polygon]:
    """A convex polygon around two outputs of a network, for each input set.

    Args:
        model: a network of flat outputs, as :func:`verifix.bounds` takes it.
        inputs: where its inputs may be.
        method: of the bounds, which hold in real arithmetic; the corners are computed in float64 and may round.
        outputs: which two.
        directions: how many, over half a turn: the bounds are two-sided.
        memory: byte budget of the bounds.

    Raises:
        InvalidValue: outputs that the network does not have, fewer than 2 directions, bounds that are not finite, an
            estimator other than exact.

    >>> from verifix import Ball
    >>> (square,) = outer_polygons(nn.Flatten(), Ball("linf", eps=1.0).around(torch.zeros(1, 2)), directions=8)
    >>> square.corners.round(3).tolist()
    [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]
    """
    if directions < 2:
        raise InvalidValue("directions", directions, "must be at least 2")
    graph = model if isinstance(model, Graph) else capture(model, inputs.center[:1])
    if len(graph.shape) != 1 or len({*outputs}) != 2 or not all(0 <= place < graph.shape[0] for place in outputs):
        raise InvalidValue("outputs", outputs, f"name two of the network's outputs, which have shape {graph.shape}")
    angles = math.pi * np.arange(directions) / directions
    across = np.stack([np.cos(angles), np.sin(angles)], 1)
    rows = torch.zeros(directions, graph.shape[0], dtype=inputs.center.dtype)
    rows[:, list(outputs)] = torch.from_numpy(across).to(rows)
    asked = rows[:, list(outputs)].double().numpy()  # as they were rounded, so that the statement is about these
    with torch.no_grad():
        both = bounds(graph, inputs, exact_methods(method), rows=rows, memory=memory)
    lower, upper = (side.double().cpu().numpy() for side in both)
    return [Polygon(asked, low, high, _corners(asked, low, high)) for low, high in zip(lower, upper, strict=True)]


def _corners(directions: Array, lower: Array, upper: Array) -> Array:
    """The corners of ``lower <= directions @ p <= upper``, counterclockwise: a parallelogram, cut by all the others."""
    if not np.isfinite(upper - lower).all():
        raise InvalidValue("inputs", "bounds that are not finite", "use a smaller eps")
    first, second = 0, len(directions) // 2
    ends = [(lower, lower), (upper, lower), (upper, upper), (lower, upper)]
    sides = np.array([[a[first], b[second]] for a, b in ends])
    corners = np.linalg.solve(directions[[first, second]], sides.T).T
    for direction, low, high in zip(directions, lower, upper, strict=True):
        corners = _cut(_cut(corners, direction, low), -direction, -high)
    return corners


def _cut(corners: Array, direction: Array, least: float) -> Array:
    """What a half plane leaves of a convex polygon; a polygon that lies outside by rounding alone stays as it is."""
    room = corners @ direction - least
    if (room >= 0).all() or (room < 0).all():
        return corners
    following, room_there = np.roll(corners, -1, 0), np.roll(room, -1)
    kept = []
    for here, there, a, b in zip(corners, following, room, room_there, strict=True):
        if a >= 0:
            kept.append(here)
        if (a >= 0) != (b >= 0):
            kept.append(here + (there - here) * (a / (a - b)))
    return np.array(kept)
