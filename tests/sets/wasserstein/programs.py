"""Linear programs over transport plans, solved by scipy: what the tests of Wasserstein balls compare with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from verifix.sets import WassersteinBall
from verifix.sets.wasserstein.ground import window_offsets

Array = NDArray[Any]


def maximum(ball: WassersteinBall, number: int, g: Array, box: bool = False) -> tuple[float, Array]:
    """The largest ``<g, z>`` over a ball, with the box if wanted, and an image that attains it."""
    x = ball.center[number].double().numpy()
    shape, threat = x.shape, ball.threat
    sources, targets, costs = [], [], []
    for source, (c, i, j) in enumerate(np.ndindex(shape)):
        if threat.window is None:
            places = [(a - i, b - j) for a in range(shape[1]) for b in range(shape[2])]
            prices = [abs(di) + abs(dj) for di, dj in places]
        else:
            places = [(di, dj) for di, dj in window_offsets(threat.window).tolist()]
            prices = ball.cost.tolist()
        for (di, dj), price in zip(places, prices, strict=True):
            if 0 <= i + di < shape[1] and 0 <= j + dj < shape[2]:
                sources.append(source)
                targets.append(np.ravel_multi_index((c, i + di, j + dj), shape))
                costs.append(price)
    n, moves = x.size, np.arange(len(costs))
    leave, arrive = np.zeros((n, len(costs))), np.zeros((n, len(costs)))
    leave[sources, moves], arrive[targets, moves] = 1, 1
    limits, most = [np.array(costs)[None]], [float(ball.budget[number])]
    if box and ball.box is not None:
        limits.append(arrive)
        most += [float(ball.box[1][number])] * n
    found = linprog(
        -(g.reshape(-1) @ arrive), A_ub=np.concatenate(limits), b_ub=most, A_eq=leave, b_eq=x.reshape(-1),
        method="highs",
    )  # fmt: skip
    assert found.success
    return -float(found.fun), (arrive @ found.x).reshape(shape)
