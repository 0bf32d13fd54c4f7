"""Ground metrics: what it costs to move one unit of mass from a pixel to another one of its window."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from verifix.errors import InvalidValue

Ground = Literal["euclidean", "squared-euclidean", "l1"]
GROUNDS: tuple[Ground, ...] = ("euclidean", "squared-euclidean", "l1")


def window_radius(window: object) -> int:
    """``r`` of a window of ``2 r + 1`` by ``2 r + 1`` pixels.

    Raises:
        InvalidValue: the window is not an odd number >= 1.

    >>> window_radius(5)
    2
    """
    if not isinstance(window, int) or isinstance(window, bool) or window < 1 or window % 2 == 0:
        raise InvalidValue("window", repr(window), "must be an odd number of pixels >= 1, so that it has a center")
    return window // 2


def window_offsets(window: int) -> Tensor:
    """``(di, dj)`` of every offset of a window, ``(K, 2)`` int64, K = window**2: row by row, the center in the middle.

    >>> window_offsets(3)[:4].tolist(), window_offsets(3)[4].tolist()
    ([[-1, -1], [-1, 0], [-1, 1], [0, -1]], [0, 0])
    """
    r = window_radius(window)
    side = torch.arange(-r, r + 1)
    return torch.stack(torch.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)


def window_cost(ground: Ground, window: int) -> Tensor:
    """The cost of every offset of a window, ``(K,)`` float64, in pixels (squared pixels for ``squared-euclidean``).

    Irrational distances are the nearest float64 number: the ball is defined by these.

    Raises:
        InvalidValue: no such ground metric, or an even window.

    >>> window_cost("euclidean", 3)[:5]
    tensor([1.4142, 1.0000, 1.4142, 1.0000, 0.0000], dtype=torch.float64)
    """
    d = window_offsets(window).double()
    if ground == "euclidean":
        return d.square().sum(1).sqrt()
    if ground == "squared-euclidean":
        return d.square().sum(1)
    if ground == "l1":
        return d.abs().sum(1)
    raise InvalidValue("ground", repr(ground), f"choose one of {', '.join(GROUNDS)}")
