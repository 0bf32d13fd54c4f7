"""How far an image is from another one by transport, exactly: a linear program over the pixels that hold mass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verifix.errors import InvalidValue
from verifix.kernels.transport_project_reference import window_of
from verifix.sets.wasserstein.ball import total_mass

if TYPE_CHECKING:
    from verifix.sets.wasserstein.ball import WassersteinBall

Array = NDArray[Any]
ROUNDING = {torch.float64: 2.0**-30}
"""By type: how far, relative to its value, rounding may have moved a pixel; other types: 8 units in the last place."""
_FEASIBILITY = 1e-10  # what HiGHS may miss constraints by, for images whose largest pixel is 1; its own minimum


def distance(ball: WassersteinBall, z: Tensor, rounding: float | None = None) -> Tensor:
    """The cost of the cheapest plan from each center to ``z``, in the units of eps, ``(n,)`` float64.

    The program is solved in float64 for the numbers as they are. What it calls z is any image that z can be a rounding
    of: pixels may be off by ``rounding * max(x, z)``, otherwise hardly any image in floating point would have exactly
    the mass of x. That makes the distance smaller by at most ``rounding`` x (mass) x (longest distance). Infinite where
    no plan of the window leads to z, such as to an image of another mass. For ``variant="clamp-after"`` it is the
    cheapest plan to an image that, clamped into the box, is z.

    Args:
        z: ``(n, C, H, W)``.
        rounding: relative; by default 8 units in the last place of the type of z, and 2**-30 for float64, which is
            what HiGHS can resolve.

    Raises:
        InvalidValue: HiGHS finds no answer.
    """
    if rounding is None:
        rounding = ROUNDING.get(z.dtype, 8 * torch.finfo(z.dtype).eps)
    found = ball.eps.new_zeros(len(ball))
    for number in range(len(ball)):
        found[number] = _one(ball, number, z[number], rounding)
    return found


def contains(ball: WassersteinBall, z: Tensor, tolerance: float = 0.0, rounding: float | None = None) -> Tensor:
    """Whether each ``z`` is in its ball, up to the rounding of :func:`distance`, decided in float64, ``(n,)``.

    Most are decided without a linear program: the center itself; images of another mass, outside the box, or beyond
    the support function of the ball in the direction away from the center.

    Args:
        z: ``(n, C, H, W)``.
        tolerance: added to eps, in its units.
        rounding: as for :func:`distance`.
    """
    if rounding is None:
        rounding = ROUNDING.get(z.dtype, 8 * torch.finfo(z.dtype).eps)
    x, own = ball.center.detach().double(), z.detach().double()
    slack = rounding * torch.maximum(x, own)
    allowed = ball.eps + tolerance
    inside = (own == x).flatten(1).all(1) & (allowed >= 0)
    undecided = ~inside & (own >= 0).flatten(1).all(1) & torch.isfinite(own).flatten(1).all(1) & (allowed >= 0)
    if ball.box is not None:
        undecided &= (own <= ball.box[1] + slack).flatten(1).all(1)
    if ball.threat.variant != "clamp-after":
        missing = (own - x).flatten(2).sum(2).abs() > slack.flatten(2).sum(2) * (1 + 1e-9) + _FEASIBILITY * x.shape[2]
        undecided &= ~missing.any(1)
        undecided &= ~_beyond(ball.with_eps(allowed.clamp(min=0)), own, slack)
    for number in undecided.nonzero()[:, 0].tolist():
        inside[number] = _one(ball, number, z[number], rounding) <= allowed[number]
    return inside


def _beyond(ball: WassersteinBall, z: Tensor, slack: Tensor) -> Tensor:
    """Whether a linear form proves that z is outside: for z in the ball, ``<g, z>`` is at most its support function."""
    g = z - ball.center.detach().double()
    rounded = (g.abs() * slack).flatten(1).sum(1) + (g.abs() * z.abs()).flatten(1).sum(1) * 1e-12
    return (g * z).flatten(1).sum(1) - rounded > ball.upper(g[:, None])[:, 0].double()


def _one(ball: WassersteinBall, number: int, z: Tensor, rounding: float) -> float:
    """The distance of one image, channel by channel: nothing moves from one to another."""
    x, own = (_array(image) for image in (ball.center[number], z))
    cost = None if ball.threat.window is None else _array(ball.cost)
    clamped = None if ball.threat.variant != "clamp-after" or ball.box is None else float(ball.box[1][number])
    total = 0.0
    for source, target in zip(x, own, strict=True):
        total += channel_cost(source, target, cost, rounding, clamped)
        if not np.isfinite(total):
            break
    return total / float(total_mass(ball.center[number : number + 1])) if ball.threat.mass == "normalised" else total


def _array(x: Tensor) -> Array:
    return x.detach().double().cpu().numpy()


def channel_cost(x: Array, z: Array, cost: Array | None, rounding: float, clamped: float | None = None) -> float:
    """The cost of the cheapest plan from ``x`` to ``z``, both ``(H, W)`` float64; infinity where there is none.

    Args:
        cost: of each offset of a window, ``(K,)``; None: mass moves along the edges of the grid, at cost 1 each.
        rounding: pixels of z may be off by this times ``max(x, z)``.
        clamped: pixels at or above this number may receive any more.

    Raises:
        InvalidValue: HiGHS finds no answer.
    """
    from scipy.optimize import linprog
    from scipy.sparse import vstack

    if not (np.isfinite(z).all() and (z >= 0).all()):
        return np.inf
    scale = float(max(x.max(initial=0), z.max(initial=0)))
    if scale == 0 or (x == z).all():
        return 0.0
    x, z = x / scale, z / scale
    slack = rounding * np.maximum(x, z)
    low, high = (z - slack).ravel(), (z + slack).ravel()
    if clamped is not None:
        if (z - slack > clamped / scale).any():
            return np.inf
        high = np.where((z + slack >= clamped / scale).ravel(), np.inf, high)
    price, arriving, leaving = _edges(x) if cost is None else _moves(x, high, cost)
    if leaving is None:  # edges change what is there
        low, high = low - x.ravel(), high - x.ravel()
    if not len(price):  # nothing can move: a black channel, or flow in a single pixel
        stuck = leaving is not None and bool((x > 0).any())
        return np.inf if stuck or (low > 0).any() or (high < 0).any() else 0.0
    bounded = np.isfinite(high)
    program = linprog(
        price,
        A_ub=vstack([arriving[bounded], -arriving], format="csr"),
        b_ub=np.concatenate([high[bounded], -low]),
        A_eq=leaving,
        b_eq=None if leaving is None else x[x > 0],
        method="highs",
        options={"primal_feasibility_tolerance": _FEASIBILITY, "dual_feasibility_tolerance": _FEASIBILITY},
    )
    if program.status == 2:
        return np.inf
    if program.status != 0:
        raise InvalidValue("z", f"image of shape {x.shape}", f"HiGHS finds no distance: {program.message}")
    return max(0.0, float(program.fun)) * scale


def _moves(x: Array, high: Array, cost: Array) -> tuple[Array, Any, Any]:
    """From each pixel with mass to each of its window that may hold some: prices, what arrives, what leaves."""
    side = window_of(len(cost))
    i, j = np.nonzero(x > 0)
    d = np.arange(len(cost))
    to_i, to_j = i[:, None] + d // side - side // 2, j[:, None] + d % side - side // 2
    kept = (to_i >= 0) & (to_i < x.shape[0]) & (to_j >= 0) & (to_j < x.shape[1])
    target = np.where(kept, to_i * x.shape[1] + to_j, 0)
    kept &= high[target] > 0
    source, offset = np.nonzero(kept)
    arriving = _incidence(target[kept], x.size)
    return cost[offset], arriving, _incidence(source, len(i))


def _edges(x: Array) -> tuple[Array, Any, Any]:
    """Along each edge of the grid, in both directions: prices, and what arrives less what leaves."""
    pixel = np.arange(x.size).reshape(x.shape)
    first = np.concatenate([pixel[:, :-1].ravel(), pixel[:-1].ravel()])
    second = np.concatenate([pixel[:, 1:].ravel(), pixel[1:].ravel()])
    start, end = np.concatenate([first, second]), np.concatenate([second, first])
    return np.ones(len(start)), _incidence(end, x.size) - _incidence(start, x.size), None


def _incidence(row: Array, rows: int) -> Any:
    """A matrix with a one in each column, in these rows."""
    from scipy.sparse import csr_array

    return csr_array((np.ones(len(row)), (row, np.arange(len(row)))), shape=(rows, len(row)))
