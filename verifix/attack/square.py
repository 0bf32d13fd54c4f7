"""Square: random search by squares of changed pixels, without gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from verifix.attack.base import Attack, per_input, real, whole
from verifix.attack.problem import Problem
from verifix.errors import InvalidValue
from verifix.sets import Box, InputSet, LpBall

_TENTHS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After how many of 10,000 queries the share of changed pixels is halved."""

_START, _SEARCH, _SIGNS, _TURN = range(3, 7)
"""Names of draws, beside those of ``steps.py``."""


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Square attack (Andriushchenko et al. 2020): a random square is changed, and kept if the margin falls.

    In l_inf the start has vertical stripes, and every channel of a square goes to one end of the set, at random. In l2
    (and l1: Croce and Hein 2021) the start is a grid of peaks; a square then takes over what another had of the budget,
    and all of what is left over, in the shape of two opposite peaks; norms are those of the set. All points are
    projected into the set, box and all. The margin of the criterion decides, so any criterion will do; no gradient is
    ever asked for, which makes it a test of attacks that do.

    Inputs ``(C, H, W)`` are images. Inputs of one axis ``(D,)`` or two ``(C, L)`` are rows of ``D`` or ``L`` features:
    in place of a square comes a run of as many neighbours.

    What is drawn depends on the query's number and the input, not on what else is attacked with it.

    Args:
        queries: how many points are tried, the start included; one forward pass each, for every input until it is
            fooled.
        share: the fraction of the features that a square covers at first; it is halved nine times on the way.

    Raises:
        InvalidValue: a setting that cannot be, by name; sets that are neither lp balls nor boxes; inputs of more than
            three axes.

    >>> from verifix.sets import Ball
    >>> x, y = torch.tensor([[0.5, 0.2]]), torch.tensor([0])
    >>> result = Square(queries=20)(lambda x: x, x, y, Ball("linf", eps=0.2))
    >>> result.success.tolist(), result.backwards.tolist()
    ([True], [0])
    """

    queries: int = 5000
    share: float = 0.8

    def __post_init__(self) -> None:
        whole("queries", self.queries, 1)
        real("share", self.share, 0.0, 1.0, above=True)

    def check(self, sets: InputSet) -> None:
        if not isinstance(sets, (LpBall, Box)):
            raise InvalidValue("inputs", sets, "Square knows lp balls and boxes: use an attack with steps")
        if len(sets.shape) > 3:
            raise InvalidValue("x", f"inputs of shape {tuple(sets.shape)}", "Square knows features, rows and images")

    def run(self, problem: Problem) -> None:
        sets, who = problem.sets, problem.open()
        if isinstance(sets, LpBall) and sets.norm != "linf":
            search: _Corners | _Peaks = _Peaks(problem, sets)
        else:
            search = _Corners(problem)
        if not len(who):
            return
        points = problem.start[who] if problem.start is not None else search.start(who)
        margins = problem.ask(points, who).margins
        for query in range(1, self.queries):
            going = torch.isin(who, problem.open(who))
            if not bool(going.all()):
                who, points, margins = who[going], points[going], margins[going]
            if not len(who):
                return
            tried = search.step(who, points, self.covered(query), query)
            found = problem.ask(tried, who).margins
            better = (found < margins) | (margins.isnan() & ~found.isnan())
            points = torch.where(per_input(better, points), tried, points)
            margins = torch.where(better, found, margins)

    def covered(self, query: int) -> float:
        """The fraction of the features that the square of a query covers.

        >>> square = Square(queries=10000)
        >>> [square.covered(query) for query in (1, 10, 11, 51, 8001)]
        [0.8, 0.8, 0.4, 0.2, 0.0015625]
        """
        done = query / self.queries * 10000
        return self.share / 2 ** sum(mark < done for mark in _TENTHS)


class _Search:
    """Starts and steps for one batch; images are ``(k, C, H, W)`` inside, whatever the inputs' shape."""

    def __init__(self, problem: Problem) -> None:
        shape = problem.sets.shape
        self.height = shape[1] if len(shape) == 3 else 1
        self.channels, self.width = shape[0] if len(shape) > 1 else 1, shape[-1]
        self.problem = problem
        device = problem.x.device
        self.rows = torch.arange(self.height, device=device)
        self.columns = torch.arange(self.width, device=device)

    def image(self, points: Tensor) -> Tensor:
        """Points as images."""
        return points.reshape(-1, self.channels, self.height, self.width)

    def size(self, covered: float, least: int = 1) -> tuple[int, int]:
        """Height and width of a square that covers a fraction of the features, or width of a run with height 1."""
        if self.height == 1:
            return 1, min(max(round(covered * self.width), least), self.width)
        side = max(round(math.sqrt(covered * self.height * self.width)), least)
        return min(side, self.height), min(side, self.width)

    def corners(self, who: Tensor, size: tuple[int, int], query: int, count: int) -> Tensor:
        """The top left corners of ``count`` random squares for each input, ``(k, count, 2)``."""
        words = self.problem.draws.words(who, 2 * count, sample=query, tag=_SEARCH).reshape(-1, count, 2)
        places = torch.tensor([self.height - size[0] + 1, self.width - size[1] + 1], device=words.device)
        return (words * places) >> 32

    def window(self, corner: Tensor, size: tuple[int, int]) -> Tensor:
        """Whether each pixel is in a square, ``(k, 1, H, W)``."""
        row, column = self.rows - corner[:, :1], self.columns - corner[:, 1:]
        inside_row, inside_column = (row >= 0) & (row < size[0]), (column >= 0) & (column < size[1])
        return (inside_row[:, :, None] & inside_column[:, None, :])[:, None]

    def signs(self, who: Tensor, count: int, *, query: int, tag: int = _SIGNS) -> Tensor:
        """Random signs, ``(k, count)``, as 1.0 and -1.0."""
        words = self.problem.draws.words(who, count, sample=query, tag=tag)
        return 1.0 - 2.0 * (words >> 31).to(self.problem.x.dtype)


class _Corners(_Search):
    """l_inf balls and boxes: every feature is at one end of its interval."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        lower, upper = problem.sets.hull()  # rounded: the projection brings them inside
        self.lower, self.upper = self.image(problem.sets.project(lower)), self.image(problem.sets.project(upper))

    def start(self, who: Tensor) -> Tensor:
        """Vertical stripes; each feature of a row goes its own way."""
        signs = self.signs(who, self.channels * self.width, query=0, tag=_START)
        up = signs.reshape(-1, self.channels, 1, self.width) > 0
        return torch.where(up, self.upper[who], self.lower[who]).reshape(-1, *self.problem.sets.shape)

    def step(self, who: Tensor, points: Tensor, covered: float, query: int) -> Tensor:
        """A square in which each channel is at one end; one that would change nothing is turned over."""
        size, now = self.size(covered), self.image(points)
        window = self.window(self.corners(who, size, query, 1)[:, 0], size)
        up = self.signs(who, self.channels, query=query)[:, :, None, None] > 0
        lower, upper = self.lower[who], self.upper[who]
        same = torch.where(up, upper == now, lower == now) | ~window
        up = up ^ per_input(same.flatten(1).all(1), up)
        return torch.where(window, torch.where(up, upper, lower), now).reshape_as(points)


class _Peaks(_Search):
    """l2 and l1 balls: the budget moves from one square to another. Steps are in units of the radii: of size 1."""

    def __init__(self, problem: Problem, sets: LpBall) -> None:
        super().__init__(problem)
        self.order = 2.0 if sets.norm == "l2" else 1.0
        self.radii = self.image(sets.eps.expand_as(sets.center))
        unit = torch.where(self.radii > 0, self.radii, 1.0)
        lower, upper = (side.double() - problem.x.double() for side in sets.hull())
        self.low, self.high = self.image(lower) / unit, self.image(upper) / unit

    def start(self, who: Tensor) -> Tensor:
        """A grid of peaks, five along each side."""
        high, wide = max(self.height // 5, 1), max(self.width // 5, 1)
        pattern = self.pattern(high, wide)
        down, across = -(-self.height // high), -(-self.width // wide)
        tiled = pattern.repeat(down, across)[: self.height, : self.width]
        signs = self.signs(who, self.channels * down * across, query=0, tag=_START)
        grid = signs.reshape(-1, self.channels, down, across)
        grid = grid.repeat_interleave(high, 2).repeat_interleave(wide, 3)[:, :, : self.height, : self.width]
        return self.place(who, grid.double() * tiled)

    def step(self, who: Tensor, points: Tensor, covered: float, query: int) -> Tensor:
        """One square takes over the budget of another (Andriushchenko et al. 2020, algorithm 3)."""
        size = self.size(covered, 3)
        corners = self.corners(who, size, query, 2)
        taker, giver = (self.window(corners[:, i], size) for i in (0, 1))
        radii = self.radii[who]
        moved = self.image(points).double() - self.image(self.problem.x[who]).double()
        moved = torch.where(radii > 0, moved / torch.where(radii > 0, radii, 1.0), 0.0)
        shape = self.placed(who, corners[:, 0], size, query) + self.unit(moved * taker, (1, 2, 3))
        shape = self.unit(torch.where((radii > 0) & taker, shape, 0.0), (2, 3))
        left = 1 - self.norm(moved, (1, 2, 3)) ** self.order
        freed = self.norm(moved * (taker | giver), (2, 3)) ** self.order
        budget = (freed + left.clamp(min=0) / self.channels) ** (1 / self.order)
        return self.place(who, torch.where(taker, budget * shape, torch.where(giver, 0.0, moved)))

    def placed(self, who: Tensor, corner: Tensor, size: tuple[int, int], query: int) -> Tensor:
        """Two opposite peaks in a square, side by side or one above the other, of random sign in each channel."""
        pattern = self.pattern(*size)
        row = (self.rows - corner[:, :1]).clamp(0, size[0] - 1)
        column = (self.columns - corner[:, 1:]).clamp(0, size[1] - 1)
        peaks = pattern[row[:, :, None], column[:, None, :]]
        if size[0] == size[1]:
            turned = pattern.T[row[:, :, None], column[:, None, :]]
            turn = self.signs(who, 1, query=query, tag=_TURN)[:, :, None] > 0
            peaks = torch.where(turn, turned, peaks)
        return self.signs(who, self.channels, query=query)[:, :, None, None] * peaks[:, None]

    def place(self, who: Tensor, moved: Tensor) -> Tensor:
        """The points at some steps, brought into the box and, as far as that goes, to size 1."""
        step, low, high = self.unit(moved, (1, 2, 3)), self.low[who], self.high[who]
        for _ in range(3):  # what the box cuts off is given to the rest
            step = self.unit(torch.minimum(torch.maximum(step, low), high), (1, 2, 3))
        x = self.problem.x[who]
        points = self.image(x).double() + step * self.radii[who]
        return self.problem.sets.select(who).project(points.reshape_as(x).to(x.dtype))

    def norm(self, moved: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Norms of steps over some axes, kept."""
        return torch.linalg.vector_norm(moved, ord=self.order, dim=axes, keepdim=True)

    def unit(self, moved: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Steps of norm 1, or 0."""
        size = self.norm(moved, axes)
        return moved / torch.where(size > 0, size, 1.0)

    def pattern(self, height: int, width: int) -> Tensor:
        """Two peaks of opposite signs side by side, ``(height, width)`` float64, of norm 1; one, where there is no room
        for two."""
        half = width // 2
        parts = [_peak(height, width - half), -_peak(height, half)] if half else [_peak(height, width)]
        peaks = torch.cat(parts, 1).to(self.problem.x.device)
        return peaks / torch.linalg.vector_norm(peaks, ord=self.order)


def _peak(height: int, width: int) -> Tensor:
    """A peak that falls in rings around the middle, ``(height, width)`` float64: ring ``r`` of ``n`` has the sum of
    ``1 / k^2`` for ``k`` from ``r + 1`` to ``n + 1`` (Andriushchenko et al. 2020, equation 2)."""
    rings = torch.maximum(
        (torch.arange(height) - height // 2).abs()[:, None], (torch.arange(width) - width // 2).abs()[None]
    )
    count = max(height // 2, width // 2) + 1
    heights = (1 / torch.arange(1, count + 1, dtype=torch.float64).square()).flip(0).cumsum(0).flip(0)
    return heights[rings]
