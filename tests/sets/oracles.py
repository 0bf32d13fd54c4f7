"""What the tests of input sets share: drawn sets, and maxima of linear forms found in other ways."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from scipy.optimize import brentq, linprog
from torch import Tensor

from verifix.sets import Ball, LpBall
from verifix.sets.ball import NORMS, Norm


@dataclass(frozen=True)
class Case:
    """Balls around ``x``, and rows to maximise over them."""

    x: Tensor
    rows: Tensor
    norm: Norm
    eps: float | Tensor
    box: tuple[float | Tensor, float | Tensor] | None

    @property
    def sets(self) -> LpBall:
        return Ball(self.norm, self.eps, self.box).around(self.x)


EPS = ("number", "input", "coordinate", "both")
BOXES = ("none", "unit", "tensors", "half", "points")


@st.composite
def cases(draw: st.DrawFn, norms: tuple[Norm, ...] = NORMS, boxes: tuple[str, ...] = BOXES, most: int = 5) -> Case:
    """Sets of up to ``most`` coordinates in float64; half of them on a lattice, where ties and corners are common."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    lattice = draw(st.booleans())
    n, r, d = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, most))

    def numbers(shape: tuple[int, ...], low: float, high: float) -> Tensor:
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
        return low + (high - low) * (torch.round(uniform * 4) / 4 if lattice else uniform)

    kind = draw(st.sampled_from(EPS))
    eps: float | Tensor = {
        "number": lambda: float(numbers((), 0.0, 1.5)),
        "input": lambda: numbers((n,), 0.0, 1.5),
        "coordinate": lambda: numbers((1, d), 0.0, 1.5),
        "both": lambda: numbers((n, d), 0.0, 1.5),
    }[kind]()
    if isinstance(eps, Tensor):
        eps = torch.where(torch.rand(eps.shape, generator=generator) < 0.2, 0.0, eps)
    x = numbers((n, d), 0.0, 1.0)
    kind = draw(st.sampled_from(boxes))
    box: tuple[float | Tensor, float | Tensor] | None = {
        "none": lambda: None,
        "unit": lambda: (0.0, 1.0),
        "tensors": lambda: (x - numbers((n, d), 0.0, 0.75), x + numbers((n, d), 0.0, 0.75)),
        "half": lambda: (0.0, torch.inf),
        "points": lambda: (x, x + numbers((n, d), 0.0, 0.5)),
    }[kind]()
    shared = draw(st.booleans())
    rows = numbers((1 if shared else n, r, d), -2.0, 2.0)
    return Case(x, rows, draw(st.sampled_from(norms)), eps, box)


def maxima(sets: LpBall, rows: Tensor) -> Tensor:
    """``max <row, x>`` over each set, row by row, by a solver or a root search: the value at a point of the set."""
    n, r = len(sets), rows.shape[1]
    result = torch.empty(n, r, dtype=torch.float64)
    for i, j in itertools.product(range(n), range(r)):
        x = sets.center[i].flatten().double().numpy()
        g = rows[i if len(rows) > 1 else 0, j].flatten().double().numpy()
        w = sets.eps.expand_as(sets.center)[i].flatten().numpy()
        low, high = (np.full_like(x, s) for s in (-np.inf, np.inf))
        if sets.box is not None:
            low, high = (side.expand_as(sets.center)[i].flatten().numpy() for side in sets.box)
        result[i, j] = g @ x + _largest_step(sets.norm, g, w, low - x, high - x)
    return result


def _largest_step(norm: str, g: np.ndarray, w: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """``max <g, d>`` over ``||d / w|| <= 1``, ``low <= d <= high``."""
    if norm == "l2":
        return _largest_l2_step(np.abs(g * w), _room(g, w, low, high))
    # d = w (p - q) with p, q >= 0; the budget is on each p + q, or on their sum
    d = len(g)
    gain = np.concatenate([g * w, -g * w])
    budget = np.hstack([np.eye(d), np.eye(d)]) if norm == "linf" else np.ones((1, 2 * d))
    limits = np.hstack([np.diag(w), -np.diag(w)])
    upper, lower = np.isfinite(high), np.isfinite(low)
    matrix = np.vstack([budget, limits[upper], -limits[lower]])
    right = np.concatenate([np.ones(len(budget)), high[upper], -low[lower]])
    solved = linprog(-gain, A_ub=matrix, b_ub=right, bounds=(0, None), method="highs")
    assert solved.success, solved.message
    return -float(solved.fun)


def _room(g: np.ndarray, w: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    side = np.where(g >= 0, high, -low)
    return np.array([0.0 if weight == 0 else room / weight for room, weight in zip(side, w, strict=True)])


def _largest_l2_step(h: np.ndarray, c: np.ndarray) -> float:
    """``max <h, t>`` over ``0 <= t <= c``, ``||t||_2 <= 1``: ``t = min(s h, c)``, where ``s`` makes its norm 1."""

    def step(s: float) -> np.ndarray:
        return np.where(h > 0, np.minimum(s * h, c), 0.0)

    def excess(s: float) -> float:
        return float(np.linalg.norm(step(s))) - 1

    if not h.any():
        return 0.0
    most = 2.0 / h[h > 0].min()
    if excess(most) <= 0:  # every coordinate saturates before the ball is left, unless one is cut by `most` itself
        assert np.all((step(most) == c) | (h == 0))
        return float(h @ step(most))
    t = step(brentq(excess, 0.0, most, xtol=1e-300, rtol=1e-15))
    return float(h @ (t / max(1.0, np.linalg.norm(t))))
