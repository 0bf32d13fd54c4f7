"""Maximum over windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from verifix.operations.base import Nonlinear, Shape, Slopes, poison
from verifix.operations.relaxation import Levels, Pulled, Relaxation, Slab, largest
from verifix.tensors import contract


class MaxPool(Nonlinear):
    """Max pooling of ``(channels, height, width)`` with any window, stride, padding, dilation and ceil mode.

    For a window with bounds ``l, u``: below, the entry with the largest lower bound. Above, with ``j`` the entry of the
    largest upper bound and ``m`` the largest upper bound of the others, ``max(z_j, m)`` and its chord on ``[l_j,
    u_j]``; where ``l_j >= m`` the maximum is ``z_j`` itself. Slope rules make no difference but for ``zero`` and
    ``constant``, which keep only the interval.
    """

    def __init__(
        self, shape: Shape, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape, ceil_mode: bool
    ) -> None:
        self.inputs = (shape,)
        self.arguments = (kernel, stride, padding, dilation, ceil_mode)
        self.shape = tuple(self.forward(torch.zeros(1, *shape)).shape[1:])
        self.windows = _windows(shape, self.shape, kernel, stride, padding, dilation)
        # building the chord; then every window that an entry lies in adds to its coefficient, twice
        overlap = torch.bincount(self.windows[self.windows >= 0])
        self.roundings = 8 + 2 * int(overlap.max()) if overlap.numel() else 8

    def forward(self, *inputs: Tensor) -> Tensor:
        return F.max_pool2d(inputs[0], *self.arguments)

    def interval(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return self.forward(lowers[0]), self.forward(uppers[0])

    def lines(self, lower: Tensor, upper: Tensor, slopes: Slopes | Tensor) -> Relaxation:
        if slopes in ("constant", "zero"):
            return Levels(*self.interval([lower], [upper]))
        windows = self.windows.to(lower.device)
        low, high = _gather(lower, windows), _gather(upper, windows)  # (n, out, window)
        best_low = low.argmax(2, keepdim=True)
        best_high = high.argmax(2, keepdim=True)
        low_j, high_j = (side.gather(2, best_high)[..., 0] for side in (low, high))
        rivals = high.scatter(2, best_high, -torch.inf).amax(2)
        settled = low_j >= rivals
        rival = torch.where(settled, 0.0, rivals)
        slope = torch.where(settled, 1.0, (high_j - rival) / torch.where(settled, 1.0, high_j - low_j))
        offset = torch.where(settled, 0.0, rival - slope * low_j)
        unknown = poison(lower, upper).flatten(1)
        unknown = _gather(unknown, windows, 0.0).sum(2)
        positions = windows.expand(len(lower), -1, -1)
        below, above = (positions.gather(2, best)[..., 0] for best in (best_low, best_high))
        return Selection(self.inputs[0], self.shape, below, above, slope, offset + unknown, unknown)


@dataclass(frozen=True)
class Selection(Relaxation):
    """``z[lower_index] <= h(z) <= slope z[upper_index] + offset``; all ``(n, outputs)`` over flattened shapes."""

    input_shape: Shape
    shape: Shape
    lower_index: Tensor
    upper_index: Tensor
    slope: Tensor
    offset: Tensor
    unknown: Tensor

    def below(self, rows: Tensor) -> Pulled:
        return self._pull(rows.clamp(min=0), rows.clamp(max=0))

    def above(self, rows: Tensor) -> Pulled:
        return self._pull(rows.clamp(max=0), rows.clamp(min=0))

    def _pull(self, exact: Tensor, relaxed: Tensor) -> Pulled:
        exact, relaxed = exact.flatten(2), relaxed.flatten(2)
        n, r = len(self.slope), exact.shape[1]
        pulled = exact.new_zeros(n, r, int(torch.Size(self.input_shape).numel()))
        for values, index in ((exact, self.lower_index), (relaxed * self.slope[:, None], self.upper_index)):
            pulled = pulled.scatter_add(2, index[:, None].expand(n, r, -1), values.expand(n, r, -1))
        offset = contract(relaxed, self.offset) + contract(exact, self.unknown)
        return pulled.reshape(n, r, *self.input_shape), offset

    def slab(self, lower: Tensor, upper: Tensor) -> Slab:
        """The entry with the largest lower bound, and how far any other can exceed it."""
        chosen = self.lower_index
        low = lower.flatten(1).gather(1, chosen)
        rival = upper.flatten(1).gather(1, self.upper_index)
        # where the same entry has the largest upper bound, the chord ends at the largest of the others
        rival = torch.where(chosen == self.upper_index, self._runner_up(lower), rival)
        excess = (rival - low).clamp(min=0) + self.unknown
        half = (excess / 2).reshape(len(excess), *self.shape)

        def linear(rows: Tensor) -> Tensor:
            n, k = len(chosen), rows.shape[1]
            taken = rows.flatten(2).expand(n, -1, -1).gather(2, chosen[:, None].expand(n, k, -1))
            return taken.reshape(n, k, *self.shape)

        return Slab(linear, half, half)

    def _runner_up(self, lower: Tensor) -> Tensor:
        """The largest upper bound of the entries other than the one at ``upper_index``; what is below ``l`` of it where
        that settles the maximum."""
        return self.slope * lower.flatten(1).gather(1, self.upper_index) + self.offset

    def select(self, index: Tensor) -> Selection:
        parts = (self.lower_index, self.upper_index, self.slope, self.offset, self.unknown)
        return Selection(self.input_shape, self.shape, *(part[index] for part in parts))

    def split(self, count: int) -> list[Selection]:
        parts = (self.lower_index, self.upper_index, self.slope, self.offset, self.unknown)
        together = zip(*(part.split(count) for part in parts), strict=True)
        return [Selection(self.input_shape, self.shape, *each) for each in together]

    def magnitude(self, size: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        flat = largest(size, lower, upper).flatten(1)
        below = flat.gather(1, self.lower_index)
        above = self.slope.abs() * flat.gather(1, self.upper_index) + self.offset.abs()
        return torch.maximum(below, above).reshape(len(flat), *self.shape)


def _gather(x: Tensor, windows: Tensor, fill: float = -torch.inf) -> Tensor:
    flat = x.flatten(1)
    taken = flat[:, windows.clamp(min=0).flatten()].reshape(len(flat), *windows.shape)
    return torch.where(windows >= 0, taken, fill)


def _windows(shape: Shape, out: Shape, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape) -> Tensor:
    """Flat input positions of every window, -1 for padding: ``(outputs, window size)``."""
    axes = []
    for size, count, k, s, p, d in zip(shape[1:], out[1:], kernel, stride, padding, dilation, strict=True):
        position = torch.arange(count)[:, None] * s - p + torch.arange(k)[None] * d
        axes.append(torch.where((position >= 0) & (position < size), position, -1))
    rows, columns = axes[0][:, None, :, None], axes[1][None, :, None, :]
    flat = torch.where((rows >= 0) & (columns >= 0), rows * shape[2] + columns, -1).flatten(0, 1).flatten(1)
    channels = torch.arange(shape[0])[:, None, None] * (shape[1] * shape[2])
    return torch.where(flat >= 0, flat + channels, -1).flatten(0, 1)
