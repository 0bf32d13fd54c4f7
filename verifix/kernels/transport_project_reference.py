"""Transport plans in plain torch: the definition of what the compiled code computes, and the fallback.

The order of every sum is fixed, so that the compiled code, whatever its vectors and threads, gives the same bits:
offsets one after another; pixels in 256 partial sums, pixel p in number p modulo 256, which a tree then adds up.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

SLOTS = 256
MOST_STEPS = 100  # evaluations of the cost; the first NEWTON_STEPS are Newton's, later every second one halves
NEWTON_STEPS = 10
CLOSE = 2.0**-46  # the cost, relative to what it should be, at which the search for the multiplier ends
LARGEST = 1e150  # of plans, images and costs; the smallest positive cost is its inverse


def window_of(offsets: int) -> int:
    """The side of the window with so many offsets; 0 where there is none."""
    side = math.isqrt(max(offsets, 0))
    return side if side * side == offsets and side % 2 == 1 else 0


def _shifts(side: int, height: int, width: int) -> list[tuple[int, tuple[slice, slice], tuple[slice, slice]]]:
    """Each offset with the pixels it starts from and the pixels it ends at, where both are in the image."""
    radius = side // 2

    def ends(step: int, size: int) -> tuple[slice, slice]:
        return slice(max(0, -step), max(0, size - max(0, step))), slice(max(0, step), max(0, size - max(0, -step)))

    shifts = []
    for d in range(side * side):
        rows, columns = ends(d // side - radius, height), ends(d % side - radius, width)
        if abs(d // side - radius) < height and abs(d % side - radius) < width:
            shifts.append((d, (rows[0], columns[0]), (rows[1], columns[1])))
    return shifts


def plan_image(plan: Tensor) -> Tensor:
    side = window_of(plan.shape[2])
    z = plan.new_zeros((*plan.shape[:2], *plan.shape[3:]), dtype=torch.float64)
    for d, start, end in _shifts(side, *plan.shape[3:]):
        z[:, :, end[0], end[1]] += plan[:, :, d, start[0], start[1]].double()
    return z.to(plan.dtype)


def plan_gradient(g: Tensor, window: int) -> Tensor:
    out = g.new_zeros(*g.shape[:2], window * window, *g.shape[2:])
    for d, start, end in _shifts(window, *g.shape[2:]):
        out[:, :, d, start[0], start[1]] = g[:, :, end[0], end[1]]
    return out


def inside_image(window: int, height: int, width: int, device: torch.device) -> Tensor:
    """``(window ** 2, height, width)`` bool: which offsets of which pixels end in the image."""
    inside = torch.zeros(window * window, height, width, dtype=torch.bool, device=device)
    for d, start, _ in _shifts(window, height, width):
        inside[d, start[0], start[1]] = True
    return inside


def project_plan(
    plan: Tensor,  # (n, C, K, H, W)
    x: Tensor,  # (n, C, H, W)
    cost: Tensor,  # (K,)
    budget: Tensor,  # (n,)
    start: Tensor | None,  # (n,)
) -> tuple[Tensor, Tensor]:
    rows = _Rows(plan, x, cost)
    valid = rows.valid & (budget >= 0)
    high, feasible = rows.bracket(budget)
    multiplier = _search(rows, rows.target(budget), start, high, valid & ~feasible)
    moved = rows.feasible_plan(multiplier, budget)
    kept = (valid & feasible)[:, None, None, None, None]
    moved = torch.where(kept, rows.own(plan), moved)
    return (
        torch.where(valid[:, None, None, None, None], moved, torch.nan),
        torch.where(valid, torch.where(feasible, 0.0, multiplier), torch.nan),
    )


def _search(rows: _Rows, target: Tensor, start: Tensor | None, high: Tensor, run: Tensor) -> Tensor:
    """The multiplier at which the plan costs the target, or 0: Newton's iteration in a bracket that only shrinks."""
    low = torch.zeros_like(target)
    tried_zero = torch.zeros_like(run)
    now = torch.zeros_like(target)
    if start is not None:
        now = torch.where(start > 0, torch.where(start < high, start, high), 0.0)
    now = torch.where(target == 0, high, torch.where(torch.isinf(target), 0.0, now))
    for step in range(MOST_STEPS):
        if not run.any():
            break
        spent, slope = rows.cost_at(now)
        excess = spent - target
        tried_zero = tried_zero | (now == 0)
        above = excess > 0
        low, high = torch.where(run & above, now, low), torch.where(run & ~above, now, high)
        run = run & ~((excess.abs() <= CLOSE * target) | ((now == 0) & ~above))
        middle = low + (high - low) * 0.5
        following = now + excess / slope
        following = torch.where((following <= 0) & ~tried_zero, 0.0, following)
        outside = ~((following > low) & (following < high)) & ~((following == 0) & ~tried_zero)
        halve = outside | (step >= NEWTON_STEPS and step % 2 == 0)
        following = torch.where(halve, middle, following)
        ended = halve & ~((middle > low) & (middle < high))
        now = torch.where(run, torch.where(ended, high, following), now)
        run = run & ~ended
    return now


class _Rows:
    """The plans as one row of K numbers for each of the C * H * W pixels of an image, offsets first, in float64."""

    def __init__(self, plan: Tensor, x: Tensor, cost: Tensor) -> None:
        n, channels, offsets, height, width = plan.shape
        self.dtype, self.cost, self.shape = plan.dtype, cost, plan.shape
        self.x = x.double().flatten(1)  # (n, p)
        inside = inside_image(window_of(offsets), height, width, plan.device).flatten(1)
        self.inside = inside.repeat(1, channels)  # (K, p)
        self.g = [self._pixels(plan[:, :, d].double(), d) for d in range(offsets)]
        largest = torch.stack(self.g).abs().amax((0, 2)) if self.x.shape[1] else self.x.new_zeros(n)
        self.valid = ((self.x >= 0) & (self.x <= LARGEST)).all(1) & (largest <= LARGEST)
        self.valid &= ((cost == 0) | ((cost >= 1 / LARGEST) & (cost <= LARGEST))).all() & (cost[offsets // 2] == 0)

    def _pixels(self, plane: Tensor, d: int) -> Tensor:
        """What counts of one offset: 0 where it leaves the image, or where there is no mass to move."""
        return torch.where(self.inside[d] & (self.x != 0), plane.reshape(self.x.shape), 0.0)

    def own(self, plan: Tensor) -> Tensor:
        """The plan without what does not count."""
        return self._assemble([row.to(plan.dtype) for row in self.g])

    def _assemble(self, rows: list[Tensor]) -> Tensor:
        n, channels, offsets, height, width = self.shape
        return torch.stack(rows).reshape(offsets, n, channels, height, width).permute(1, 2, 0, 3, 4).contiguous()

    def bracket(self, budget: Tensor) -> tuple[Tensor, Tensor]:
        """A multiplier from which on nothing moves, and whether the plan is feasible as it is, up to rounding."""
        free = torch.full_like(self.x, -torch.inf)
        total, spent, negative = torch.zeros_like(self.x), torch.zeros_like(self.x), torch.zeros_like(self.x).bool()
        for d, g in enumerate(self.g):
            free = torch.where(self.inside[d] & (self.cost[d] == 0) & (g > free), g, free)
            total = total + g
            spent = spent + g * self.cost[d]
            negative |= g < 0
        high = torch.zeros_like(self.x)
        for d, g in enumerate(self.g):
            needed = (g - free + self.x) / self.cost[d]
            high = torch.where(self.inside[d] & (self.x > 0) & (self.cost[d] > 0) & (needed > high), needed, high)
        loose = len(self.g) * torch.finfo(self.dtype).eps
        rows_hold = ((total - self.x).abs() <= loose * self.x) & ~negative
        feasible = rows_hold.all(1) & (total_of(spent) <= self.target(budget))
        return high.amax(1) if high.shape[1] else high.sum(1), feasible

    def target(self, budget: Tensor) -> Tensor:
        """What is spent at most: the budget, less what adding up the costs in another order could round up."""
        terms = len(self.g) * (self.x != 0).sum(1).double()
        return budget * (1 - (terms + 16) * 2.0**-52)

    def _thresholds(self, multiplier: Tensor) -> tuple[list[Tensor], Tensor]:
        """Rows ``u`` with their maximum at 0, and thresholds ``tau`` with ``sum max(u - tau, 0) = x``."""
        x = self.x
        rows = [g - multiplier[:, None] * c for g, c in zip(self.g, self.cost, strict=True)]
        top = torch.full_like(x, -torch.inf)
        for d, row in enumerate(rows):
            top = torch.where(self.inside[d] & (row > top), row, top)
        rows = [torch.where(self.inside[d], row - top, -torch.inf) for d, row in enumerate(rows)]
        tau, run = -x, x > 0
        while run.any():  # Newton from below: each step that changes anything leaves fewer entries above
            total, count = torch.zeros_like(x), torch.zeros_like(x)
            for row in rows:
                above = row > tau
                total = total + torch.where(above, row, 0.0)
                count = count + torch.where(above, 1.0, 0.0)
            following = (total - x) / count
            run = run & (following > tau)
            tau = torch.where(run, following, tau)
        return rows, tau

    def cost_at(self, multiplier: Tensor) -> tuple[Tensor, Tensor]:
        """What the plan of a multiplier costs, ``(n,)``, and how fast that falls as the multiplier grows."""
        rows, tau = self._thresholds(multiplier)
        spent, count, first, second = (torch.zeros_like(self.x) for _ in range(4))
        for row, c in zip(rows, self.cost, strict=True):
            above = row > tau
            spent = spent + torch.where(above, (row - tau) * c, 0.0)
            count = count + torch.where(above, 1.0, 0.0)
            first = first + torch.where(above, c, 0.0)
            second = second + torch.where(above, c * c, 0.0)
        slope = torch.where(count > 0, second - first * first / count, 0.0)
        slope = torch.where(slope > 0, slope, 0.0)
        return total_of(spent), total_of(slope)

    def feasible_plan(self, multiplier: Tensor, budget: Tensor) -> Tensor:
        """The plan of a multiplier, its rows scaled to x and, where it still costs too much, its moves scaled down."""
        rows, tau = self._thresholds(multiplier)
        rows = [torch.where(row > tau, row - tau, 0.0) for row in rows]
        total = torch.zeros_like(self.x)
        for row in rows:
            total = total + row
        scale = self.x / total
        center = len(rows) // 2
        rows = [torch.where(total > 0, row * scale, self.x if d == center else 0.0) for d, row in enumerate(rows)]
        rows = [row.to(self.dtype).double() for row in rows]
        spent = torch.zeros_like(self.x)
        for row, c in zip(rows, self.cost, strict=True):
            spent = spent + row * c
        spent_in_all = total_of(spent)
        target = self.target(budget)
        keep = torch.where(spent_in_all > target, target / spent_in_all * (1 - 4 * torch.finfo(self.dtype).eps), 1.0)
        returned = torch.zeros_like(self.x)
        for d, (row, c) in enumerate(zip(rows, self.cost, strict=True)):
            smaller = (row * keep[:, None]).to(self.dtype).double()
            smaller = torch.where(smaller < torch.finfo(self.dtype).smallest_normal, 0.0, smaller)
            rows[d] = torch.where((c > 0) & (keep[:, None] < 1), smaller, row)
            returned = returned + (row - rows[d])
        rows[center] = rows[center] + returned
        return self._assemble([row.to(self.dtype) for row in rows])


def total_of(values: Tensor) -> Tensor:
    """Sums of ``(n, p)``, ``(n,)``, in the one order that all implementations add in."""
    n, pixels = values.shape
    padded = functional.pad(values, (0, -pixels % SLOTS)).reshape(n, -(-pixels // SLOTS), SLOTS)
    sums = values.new_zeros(n, SLOTS)
    for piece in padded.unbind(1):
        sums = sums + piece
    width = SLOTS
    while width > 1:
        width //= 2
        sums = sums[:, :width] + sums[:, width:]
    return sums[:, 0]
