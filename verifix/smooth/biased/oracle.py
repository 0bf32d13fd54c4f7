"""The direction oracle: the label of the nearest of a few reserved points, and how far that label is certain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.sets import Ball
from verifix.sets.base import Norm, check_points
from verifix.smooth.biased.rounding import DUAL, TINY, UNIT, down, gamma, quotient_below, widened

Oracle = Callable[[Tensor], Tensor]
"""Labels ``(n,)`` of inputs ``(n, *shape)``."""
TILE = 64 << 20
"""Bytes of the largest tensor that is made at once."""
REFINED = 8
"""So many opposing points of each input, those that limit its radius, are compared without cancellation."""


@dataclass(frozen=True)
class Neighbours:
    """What the oracle says of some inputs.

    Attributes:
        labels: the label of the nearest reserved point, ``(n,)`` int64; of those that are equally near in float64, the
            first.
        indices: its number, ``(n,)``.
        radii: within them, in the norm that was asked for, the label is the same, ``(n,)`` float64, rounded down;
            zero where the label of the input itself is in doubt, infinite where no reserved point has another label.
    """

    labels: Tensor
    indices: Tensor
    radii: Tensor


class NearestNeighbour:
    """The label of the nearest reserved point in the Euclidean distance (paper, section 3.2).

    Args:
        points: the reserved points ``(N, *shape)``, float32 or float64, in raw units. They are read as real numbers.
        labels: ``(N,)`` whole numbers: -1 and 1, or classes.

    Raises:
        InvalidValue, InvalidType: what is wrong with an argument, by name.

    >>> oracle = NearestNeighbour(torch.tensor([[0.0, 0.0], [4.0, 0.0]]), torch.tensor([-1, 1]))
    >>> found = oracle.neighbours(torch.tensor([[1.0, 0.0], [2.0, 5.0]]), "l2")
    >>> found.labels.tolist(), found.radii
    ([-1, -1], tensor([1.0000, 0.0000], dtype=torch.float64))
    """

    def __init__(self, points: Tensor, labels: Tensor) -> None:
        check_points("points", points)
        if points.dim() < 2 or not len(points):
            raise InvalidValue("points", f"tensor of shape {tuple(points.shape)}", "must be (N, *shape) with N >= 1")
        if not isinstance(labels, Tensor):
            raise InvalidType("labels", labels, "a torch.Tensor of whole numbers (N,)")
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise InvalidType("labels", labels, f"whole numbers, not {labels.dtype}")
        if labels.shape != (len(points),):
            shape = f"tensor of shape {tuple(labels.shape)}"
            raise InvalidValue("labels", shape, f"must be ({len(points)},), one for each of the points")
        self.shape = tuple(points.shape[1:])
        self.points = points.detach().flatten(1).double()
        self.labels = labels.detach().long().to(points.device)

    def __len__(self) -> int:
        return len(self.points)

    def flat(self, x: Tensor) -> Tensor:
        """Inputs as rows, in float64.

        Raises:
            InvalidValue: inputs of another shape than the points.
        """
        if not isinstance(x, Tensor):
            raise InvalidType("x", x, "a torch.Tensor (n, *shape)")
        if tuple(x.shape[1:]) != self.shape or not x.dim():
            shape = f"tensor of shape {tuple(x.shape)}"
            raise InvalidValue("x", shape, f"must be (n, {', '.join(map(str, self.shape))}), as the reserved points")
        return x.flatten(1).double()

    def distances(self, x: Tensor) -> Tensor:
        """Euclidean distances to all reserved points, ``(n, N)``, differences first: no cancellation."""
        return torch.cdist(self.flat(x), self.points, compute_mode="donot_use_mm_for_euclid_dist")

    def __call__(self, x: Tensor) -> Tensor:
        """The label of each input, ``(n,)``; of points that are equally near in float64, the first one's."""
        with torch.no_grad():
            return self.labels[self.distances(x).argmin(1)]

    @torch.no_grad()
    def neighbours(self, x: Tensor, norm: Norm, *, tight: bool = True) -> Neighbours:
        """Labels, and the radii within which they cannot change (paper, theorem 6 and 8, the neighbour term).

        The label stays as long as every point with another label is farther than some point with this one. Point j is
        farther than point k on the whole ball of radius ``(D_j - D_k) / (2 ||x_k - x_j||_*)``, with ``D`` the squared
        distance at ``x`` and ``||.||_*`` the dual norm; so the smallest over j of the largest over k is certain.

        Args:
            x: inputs ``(n, *shape)``.
            norm: of the perturbation: ``linf``, ``l2`` or ``l1``.
            tight: the best k for every j; else the nearest point alone, as in the paper.

        Radii hold in real arithmetic for the numbers as they are stored, ends included: everything that rounds is
        rounded to the safe side.
        """
        norm = Ball(norm, 0.0).norm
        flat = self.flat(check_points("x", x))
        indices = self.distances(x).argmin(1)
        labels = self.labels[indices]
        radii = torch.full((len(flat),), torch.inf, dtype=torch.float64, device=flat.device)
        for label in labels.unique().tolist():
            wanted = (labels == label).nonzero()[:, 0]
            same, opposing = (self.labels == label).nonzero()[:, 0], (self.labels != label).nonzero()[:, 0]
            if not len(opposing):
                continue
            radii[wanted] = self._nearest_only(flat[wanted], indices[wanted], opposing, norm)
            if tight and len(same) > 1:
                best = self._best_of_all(flat[wanted], same, opposing, norm)
                radii[wanted] = torch.maximum(radii[wanted], best)
        return Neighbours(labels, indices, radii)

    def _nearest_only(self, x: Tensor, nearest: Tensor, opposing: Tensor, norm: Norm) -> Tensor:
        """Smallest ratio over opposing points j, with the nearest point for every one of them."""
        radii = []
        for part in _tiles(len(x), 3 * len(opposing)):
            rows, k = x[part], nearest[part]
            lower, _ = self._squares(rows, opposing)
            _, own = self._squares(rows, None, k)
            ratios = quotient_below(down(lower - own[:, None]), 2 * self._dual(k, opposing, norm))
            # one k for each row, the same for all j
            radii.append(self._refined(rows, ratios, opposing, k[:, None].expand(-1, len(opposing)), norm))
        return torch.cat(radii) if radii else x.new_zeros(0)

    def _best_of_all(self, x: Tensor, same: Tensor, opposing: Tensor, norm: Norm) -> Tensor:
        """Smallest over j of the largest ratio over k."""
        dual = 2 * self._dual(same, opposing, norm)  # (K, J)
        inverse = 1 / dual
        radii = []
        for part in _tiles(len(x), 2 * dual.numel()):
            rows = x[part]
            lower, _ = self._squares(rows, opposing)
            _, upper = self._squares(rows, same)
            # any k is sound: how this is rounded does not matter
            best = (lower[:, None] - upper[:, :, None]).mul_(inverse).argmax(1)
            chosen = dual.gather(0, best)
            ratios = quotient_below(down(lower - upper.gather(1, best)), chosen)
            radii.append(self._refined(rows, ratios, opposing, same[best], norm))
        return torch.cat(radii) if radii else x.new_zeros(0)

    def _refined(self, x: Tensor, ratios: Tensor, opposing: Tensor, k: Tensor, norm: Norm) -> Tensor:
        """The smallest ratio of each row ``(n, J)``, after those that limit it were computed without cancellation."""
        count = min(REFINED, ratios.shape[1])
        places = ratios.topk(count, dim=1, largest=False).indices
        j, k = opposing[places], k.gather(1, places)
        exact = torch.zeros_like(places, dtype=torch.float64)
        for part in _tiles(len(x), 4 * count * x.shape[1]):
            near, far = self.points[k[part]], self.points[j[part]]
            gap, sides = near - far, (x[part, None] - near, x[part, None] - far)
            # D_j - D_k = (x_k - x_j) . ((x - x_k) + (x - x_j)): in each term at most d + 4 roundings
            difference = (gap * (sides[0] + sides[1])).sum(2)
            size = (gap.abs() * (sides[0].abs() + sides[1].abs())).sum(2)
            terms = x.shape[1]
            error = gamma(terms + 8) * size + 4 * terms * TINY
            _, dual = widened(torch.linalg.vector_norm(gap, ord=DUAL[norm], dim=2), terms, norm)
            exact[part] = quotient_below(down(difference - error), 2 * dual)
        return ratios.scatter(1, places, torch.maximum(ratios.gather(1, places), exact)).amin(1)

    def _squares(self, x: Tensor, points: Tensor | None, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Bounds of squared distances: to these points, ``(n, m)``; or of each row to its own point, ``(n,)``."""
        if own is not None:
            squares = torch.linalg.vector_norm(x - self.points[own], dim=1).square()
        else:
            squares = torch.cdist(x, self.points[points], compute_mode="donot_use_mm_for_euclid_dist").square()
        error = gamma(x.shape[1] + 12) * squares + 8 * (x.shape[1] + 2) * TINY
        return down(squares - error), squares + error * (1 + 4 * UNIT) + TINY

    def _dual(self, near: Tensor, far: Tensor, norm: Norm) -> Tensor:
        """Upper bounds of the dual norms of differences, ``(K, J)``."""
        mode = "donot_use_mm_for_euclid_dist"
        norms = torch.cdist(self.points[near], self.points[far], p=DUAL[norm], compute_mode=mode)
        return widened(norms, self.points.shape[1], norm)[1]


def _tiles(n: int, numbers: int) -> Iterator[slice]:
    """Slices of inputs that are worked on together, where each needs so many float64 numbers at once."""
    step = max(1, TILE // (8 * max(numbers, 1)))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))
