"""Linear and quadratic programs over transport plans, solved by scipy: what tests of Wasserstein balls compare with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog, nnls

from verifix.sets import WassersteinBall
from verifix.sets.wasserstein.ground import window_offsets

Array = NDArray[Any]


def moves(ball: WassersteinBall, number: int) -> tuple[Array, Array, Array]:
    """All ways to move mass in an image: matrices of what leaves and what arrives, ``(pixels, ways)``, and costs."""
    shape, threat = tuple(ball.shape), ball.threat
    sources, targets, costs = [], [], []
    for source, (c, i, j) in enumerate(np.ndindex(shape)):
        if threat.window is None:
            places = [(a - i, b - j) for a in range(shape[1]) for b in range(shape[2])]
            prices = [float(abs(di) + abs(dj)) for di, dj in places]
        else:
            places = [(di, dj) for di, dj in window_offsets(threat.window).tolist()]
            prices = ball.cost.tolist()
        for (di, dj), price in zip(places, prices, strict=True):
            if 0 <= i + di < shape[1] and 0 <= j + dj < shape[2]:
                sources.append(source)
                targets.append(np.ravel_multi_index((c, i + di, j + dj), shape))
                costs.append(price)
    n, ways = int(np.prod(shape)), np.arange(len(costs))
    leave, arrive = np.zeros((n, len(costs))), np.zeros((n, len(costs)))
    leave[sources, ways], arrive[targets, ways] = 1, 1
    return leave, arrive, np.array(costs)


def maximum(ball: WassersteinBall, number: int, g: Array, box: bool = False) -> tuple[float, Array]:
    """The largest ``<g, z>`` over a ball, with the box if wanted, and an image that attains it."""
    x = ball.center[number].double().numpy()
    leave, arrive, costs = moves(ball, number)
    limits, most = [costs[None]], [float(ball.budget[number])]
    if box and ball.box is not None:
        limits.append(arrive)
        most += [float(ball.box[1][number])] * x.size
    found = linprog(
        -(g.reshape(-1) @ arrive), A_ub=np.concatenate(limits), b_ub=most, A_eq=leave, b_eq=x.reshape(-1),
        method="highs",
    )  # fmt: skip
    assert found.success
    return -float(found.fun), (arrive @ found.x).reshape(x.shape)


def nearest_image(ball: WassersteinBall, number: int, v: Array) -> Array:
    """The nearest image of a ball: nonnegative least squares, with slacks; constraints weigh 1e4 and miss by 1e-8."""
    x, weight = ball.center[number].double().numpy(), 1e4
    leave, arrive, costs = moves(ball, number)
    kept = (leave.T @ x.reshape(-1)) > 0
    leave, arrive, costs = leave[:, kept], arrive[:, kept], costs[kept]
    n, ways = leave.shape
    rows = [np.hstack([arrive, np.zeros((n, n + 1))]), weight * np.hstack([leave, np.zeros((n, n + 1))])]
    right = [v.reshape(-1), weight * x.reshape(-1)]
    rows.append(weight * np.concatenate([costs, [1.0], np.zeros(n)])[None])
    right.append(weight * np.array([float(ball.budget[number])]))
    if ball.box is not None:
        rows.append(weight * np.hstack([arrive, np.zeros((n, 1)), np.eye(n)]))
        right.append(weight * np.full(n, float(ball.box[1][number])))
    solved, _ = nnls(np.concatenate(rows), np.concatenate(right))
    return (arrive @ solved[:ways]).reshape(x.shape)


def cheapest(ball: WassersteinBall, number: int, z: Array) -> float:
    """The cost of the cheapest plan to an image that can be reached."""
    x = ball.center[number].double().numpy()
    leave, arrive, costs = moves(ball, number)
    right = np.concatenate([x.reshape(-1), z.reshape(-1)])
    found = linprog(costs, A_eq=np.concatenate([leave, arrive]), b_eq=right, method="highs")
    assert found.success
    return float(found.fun)
