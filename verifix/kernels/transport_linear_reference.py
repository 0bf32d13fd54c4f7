"""Linear forms over balls of transport plans in plain torch: the fallback, and what native code is tested against.

The same search with the same sums (``csrc/include/verifix/transport_linear_arithmetic.h`` has the analysis of its
rounding), all pairs at once, in float64.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

LANES = 32
MOST_SWEEPS = 100
NEWTON_SWEEPS = 40
_NUMBERS = 2**23
"""Of so many numbers are the values of classes of the pairs that are handled at once, at most."""


def linear_support(
    x: Tensor, g: Tensor, which: Tensor, row: Tensor, cost: Tensor, budget: Tensor
) -> tuple[Tensor, Tensor]:
    """:func:`verifix.kernels.transport_linear.linear_support`; the arguments have been checked."""
    found = [search.bounds() for search in _searches(x, g, which, row, cost, budget)]
    upper, multiplier = (torch.cat(parts) for parts in zip(*found, strict=True))
    return upper, multiplier


def linear_maximiser(
    x: Tensor, g: Tensor, which: Tensor, row: Tensor, cost: Tensor, budget: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`verifix.kernels.transport_linear.linear_maximiser`; the arguments have been checked."""
    found = [search.maximiser(x.dtype) for search in _searches(x, g, which, row, cost, budget)]
    z, value, plan_cost = (torch.cat(parts) for parts in zip(*found, strict=True))
    return z, value, plan_cost


def _searches(x: Tensor, g: Tensor, which: Tensor, row: Tensor, cost: Tensor, budget: Tensor) -> Iterator[_LocalSearch]:
    """Searches for some pairs at a time, so that memory is bounded."""
    at_once = max(1, _NUMBERS // (len(cost) * math.prod(x.shape[1:])))
    for pairs in range(0, max(1, len(which)), at_once):
        images, rows = which[pairs : pairs + at_once], row[pairs : pairs + at_once]
        yield _LocalSearch(x.double()[images], g.double()[rows], cost, budget[images])


class DualSearch(ABC):
    """The search for the best multiplier of the budget, for many pairs of an image and a form at once.

    Args:
        image, form: ``(m, C, H, W)`` float64.
        budget: ``(m,)`` float64.
        seen: ``(m, C, H, W)`` bool, which pixels can gain anything; the form is zero wherever the others can go.

    Sums of a sweep are ``(4, m)``: of mass times net value, of its absolute values, value and cost of the plan.
    """

    upper: Tensor
    multiplier: Tensor

    def __init__(self, image: Tensor, form: Tensor, budget: Tensor, seen: Tensor) -> None:
        self.form, self.budget = form, budget
        self.image = torch.where(image >= 0, image, math.nan)
        self.active = seen & (self.image != 0)
        self.order, self.count = _lanes(self.active)

    @abstractmethod
    def choice(self, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What each pixel gains at a multiplier, the entry of the form where it goes, and what going there costs."""

    @abstractmethod
    def move(self, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The image of masses, each with the multiplier at which they choose where they go."""

    def error(self, lam: Tensor) -> Tensor | float:
        """By how much what a unit of mass gains may be found too small."""
        return 0.0

    def sweep(self, lam: Tensor) -> Tensor:
        best, value, paid = self.choice(lam)
        product = self.image * best
        terms = torch.stack([product, product.abs(), self.image * value, self.image * paid])
        return _lane_sum(terms, self.active, self.order)

    def upper_bound(self, lam: Tensor, sums: Tensor) -> Tensor:
        paid = torch.where((lam == 0) | (self.budget == 0), 0.0, lam * self.budget)
        error = self.error(lam) * (1 + self.slack) * torch.where(self.active, self.image, 0.0).sum((1, 2, 3))
        return paid + sums[0] + self.slack * (sums[1] + paid) + error + (self.count + 1).double() * 2.0**-1000

    def keep(self, lam: Tensor, sums: Tensor, where: Tensor) -> None:
        upper = self.upper_bound(lam, sums)
        better = where & (upper < self.upper)
        self.upper = torch.where(better, upper, self.upper)
        self.multiplier = torch.where(better, lam, self.multiplier)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """The smallest upper bound that was met and its multiplier, ``(m,)``."""
        self.run()
        return self.upper, self.multiplier

    def run(self) -> None:
        zero = torch.zeros_like(self.budget)
        self.slack = (self.count // LANES + 24).double() * 2.0**-52
        self.left = self.sweep(zero)
        self.left_lam = self.right_lam = zero
        self.upper, self.multiplier = self.upper_bound(zero, self.left), zero
        above = self.left[3] > self.budget
        nothing = torch.full_like(zero, math.inf)
        still = self.sweep(nothing)
        self.right = torch.where(above, still, self.left)
        self.right_lam = torch.where(above, nothing, self.right_lam)
        self.keep(nothing, still, above & (self.budget == 0))
        lam = self._meeting_point()
        open_ = above & (self.budget > 0) & (lam >= 0)
        sweeps = 1
        while bool(open_.any()):
            sums = self.sweep(lam)
            self.keep(lam, sums, open_)
            sweeps += 1
            open_ = open_ & self._improves(lam, sums, sweeps)
            over = sums[3] > self.budget
            self.left = torch.where(open_ & over, sums, self.left)
            self.right = torch.where(open_ & ~over, sums, self.right)
            self.left_lam = torch.where(open_ & over, lam, self.left_lam)
            self.right_lam = torch.where(open_ & ~over, lam, self.right_lam)
            lam = self._meeting_point()
            if sweeps > NEWTON_SWEEPS and sweeps % 2 == 0:
                half = self.left_lam + (self.right_lam - self.left_lam) / 2
                lam = torch.where(torch.isinf(self.right_lam), lam, half)
            open_ = open_ & (lam >= 0)
        self._mark_broken()

    def _improves(self, lam: Tensor, sums: Tensor, sweeps: int) -> Tensor:
        line = sums[2] + lam * (self.budget - sums[3])
        known = self.right[2] + lam * (self.budget - self.right[3])
        gains = line - known > 2.0**-47 * (sums[1] + lam * self.budget)
        same = torch.where(sums[3] > self.budget, sums[3] >= self.left[3], sums[3] <= self.right[3])
        return gains & ~same & (sweeps < MOST_SWEEPS)

    def _meeting_point(self) -> Tensor:
        return (self.left[2] - self.right[2]) / (self.left[3] - self.right[3])

    def _mark_broken(self) -> None:
        finite = torch.isfinite(self.form).flatten(1).all(1)
        nan = self.form.isnan().flatten(1).any(1)
        self.sound = finite & (self.budget >= 0)
        empty = self.count == 0
        self.upper = torch.where(empty, 0.0, self.upper)
        self.multiplier = torch.where(empty, 0.0, self.multiplier)
        self.upper = torch.where(self.sound, self.upper, torch.where(nan | finite, math.nan, math.inf))
        self.multiplier = torch.where(self.sound, self.multiplier, math.nan)

    def share_of_left(self) -> Tensor:
        room = self.budget - self.right[3] - 4 * self.slack * (self.left[3] + self.budget)
        share = (room / (self.left[3] - self.right[3])).clamp(min=0)
        return torch.where(self.left[3] > self.budget, share.nan_to_num(0.0), 1.0)

    def maximiser(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """The image of the mixture of plans that spends the budget, its value and its cost."""
        self.run()
        share = self.share_of_left()
        mass = torch.where(self.active, self.image, 0.0)
        left = share.reshape(-1, 1, 1, 1) * mass
        moved = self.move([(left, self.left_lam), (mass - left, self.right_lam)])
        image = torch.where(self.active, moved, moved + self.image)
        usable = self.sound & (self.count > 0)
        image = torch.where(usable.reshape(-1, 1, 1, 1), image, self.image)
        value = self.right[2] + share * (self.left[2] - self.right[2])
        paid = self.right[3] + share * (self.left[3] - self.right[3])
        value = torch.where(usable, value, torch.where(self.sound, 0.0, math.nan))
        return image.to(dtype), value, torch.where(usable, paid, 0.0)


class _LocalSearch(DualSearch):
    """Mass moves along the offsets of a window."""

    def __init__(self, image: Tensor, form: Tensor, cost: Tensor, budget: Tensor) -> None:
        self.classes, self.offsets = _classes(cost)
        self.radius = math.isqrt(len(cost)) // 2
        super().__init__(image, form, budget, _seen(form != 0, self.radius))
        by_class = [[at for at, place in self.offsets.items() if place == p] for p in range(len(self.classes))]
        self.values = torch.stack([_largest(form, part, self.radius) for part in by_class])

    def choice(self, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        chosen, best = self._chosen(lam)
        cost = torch.tensor(self.classes, dtype=torch.float64, device=best.device)
        return best, self.values.gather(0, chosen[None])[0], cost[chosen]

    def _chosen(self, lam: Tensor) -> tuple[Tensor, Tensor]:
        """The class that each pixel chooses, the cheapest among equals, and its net value."""
        best, chosen = self.values[0], torch.zeros_like(self.values[0], dtype=torch.int64)
        for p, c in enumerate(self.classes[1:], 1):
            price = lam * c * (1 - 2.0**-52)
            price = torch.where(price < 2.0**-1000, 0.0, price)
            net = self.values[p] - price.reshape(-1, 1, 1, 1)
            better = net > best
            best, chosen = torch.where(better, net, best), torch.where(better, p, chosen)
        return chosen, best

    def move(self, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
        offsets = [(mass, self._offset(lam)) for mass, lam in parts]
        r, (height, width) = self.radius, self.image.shape[2:]
        target = pad(torch.zeros_like(self.image), (r, r, r, r))
        for k, (di, dj) in sorted(enumerate(self.offsets), key=lambda item: item[1], reverse=True):
            window = (..., slice(r + di, r + di + height), slice(r + dj, r + dj + width))
            for mass, chosen in offsets:  # each place adds up its sources in their order
                target[window] += torch.where(chosen == k, mass, 0.0)
        return target[..., r : r + height, r : r + width]

    def _offset(self, lam: Tensor) -> Tensor:
        """Which offset each pixel takes at lam, the first among equals."""
        chosen, _ = self._chosen(lam)
        wanted = self.values.gather(0, chosen[None])[0]
        r, (height, width) = self.radius, chosen.shape[2:]
        form = pad(self.form, (r, r, r, r), value=-math.inf)
        taken = torch.full_like(chosen, -1)
        for k, ((di, dj), p) in enumerate(self.offsets.items()):
            there = form[..., r + di : r + di + height, r + dj : r + dj + width]
            taken = torch.where((taken < 0) & (chosen == p) & (there == wanted), k, taken)
        return taken


def _classes(cost: Tensor) -> tuple[list[float], dict[tuple[int, int], int]]:
    """Distinct costs in ascending order, and the class of each offset, in the order of classes, the center first."""
    k = math.isqrt(len(cost))
    costs, center = cost.tolist(), len(cost) // 2
    order = sorted(range(len(costs)), key=lambda d: (costs[d], d != center, d))
    distinct = sorted(set(costs))
    return distinct, {(d // k - k // 2, d % k - k // 2): distinct.index(costs[d]) for d in order}


def _largest(form: Tensor, offsets: list[tuple[int, int]], r: int) -> Tensor:
    """The largest entry that some offsets lead to, for every pixel; minus infinity where all lead outside."""
    padded = pad(form, (r, r, r, r), value=-math.inf)
    height, width = form.shape[2:]
    parts = [padded[:, :, r + di : r + di + height, r + dj : r + dj + width] for di, dj in offsets]
    return torch.stack(parts).amax(0)


def _seen(nonzero: Tensor, r: int) -> Tensor:
    """The pixels of each plane in the smallest box that holds all that see an entry other than zero."""
    tall, wide = nonzero.any(3), nonzero.any(2)
    return _grown(tall, r)[..., :, None] & _grown(wide, r)[..., None, :]


def _grown(line: Tensor, r: int) -> Tensor:
    """From the first to the last, and r more on both sides."""
    marks = line.to(torch.uint8)
    between = marks.cummax(-1).values & marks.flip(-1).cummax(-1).values.flip(-1)
    return pad(between, (r, r)).unfold(-1, 2 * r + 1, 1).amax(-1) > 0


def _lanes(active: Tensor) -> tuple[Tensor, Tensor]:
    """The place of every active pixel among those of its pair, ``(m, pixels)``, and how many there are, ``(m,)``."""
    flat = active.flatten(1)
    return flat.cumsum(1) - 1, flat.sum(1)


def _lane_sum(terms: Tensor, active: Tensor, order: Tensor) -> Tensor:
    """Sums ``(4, m)`` over active pixels in 32 partial sums, each in order, which are then added in halves."""
    flat, mask = terms.flatten(2), active.flatten(1)
    groups = max(1, -(-mask.shape[1] // LANES))
    slots = flat.new_zeros(flat.shape[0], flat.shape[1], groups * LANES + 1)
    place = torch.where(mask, order, groups * LANES).expand_as(flat)
    slots = slots.scatter(2, place, flat)[:, :, : groups * LANES].reshape(*flat.shape[:2], groups, LANES)
    sums = slots.new_zeros(*flat.shape[:2], LANES)
    for group in range(groups):
        sums = sums + slots[:, :, group]
    while sums.shape[2] > 1:
        half = sums.shape[2] // 2
        sums = sums[..., :half] + sums[..., half:]
    return sums[..., 0]
