"""The smallest box that holds a Wasserstein ball, and boxes that hold it: what one pixel can lose and gain."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from verifix.sets.wasserstein.ground import window_offsets, window_radius


def window_hull(x: Tensor, cost: Tensor, budget: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Bounds of every pixel over the balanced balls of transport inside a window, float64 ``(n, C, H, W)``.

    A pixel loses most at the smallest cost; it gains most from its window's cheapest places first. Up to rounding,
    which is outward, this is the smallest box.

    Args:
        x: ``(n, C, H, W)`` float64.
        cost: ``(window**2,)``.
        budget: ``(n,)``.
    """
    r = window_radius(window)
    height, width = x.shape[2:]
    left = budget.reshape(-1, 1, 1, 1).expand_as(x)
    padded = pad(x, (r, r, r, r))
    gain = torch.zeros_like(x)
    offsets = window_offsets(window).tolist()
    least = torch.full_like(x, torch.inf)
    for k in cost.argsort(stable=True).tolist():
        di, dj = offsets[k]
        if di == dj == 0:
            continue
        # the source from which offset (di, dj) leads here
        source = padded[:, :, r - di : r - di + height, r - dj : r - dj + width]
        c = float(cost[k])
        taken = source if c == 0 else torch.minimum(source, left / c)
        gain, left = gain + taken, (left - c * taken).clamp(min=0)
        rows = _inside(height, di, x.device)[:, None] & _inside(width, dj, x.device)
        least = torch.where(rows, least.clamp(max=c), least)
    loss = torch.minimum(x, torch.where(torch.isinf(least), 0.0, budget.reshape(-1, 1, 1, 1) / least))
    return _outward(x, loss, gain, 4 * len(offsets))


def flow_hull(x: Tensor, budget: Tensor) -> tuple[Tensor, Tensor]:
    """The same for flow along the grid: a pixel's neighbours are at distance 1, all others of its channel farther."""
    most = budget.reshape(-1, 1, 1, 1)
    others = (x.sum((2, 3), keepdim=True) * (1 + x.shape[2] * x.shape[3] * 2.0**-52) - x).clamp(min=0)
    loss = torch.minimum(x, most) if x.shape[2] * x.shape[3] > 1 else torch.zeros_like(x)
    return _outward(x, loss, torch.minimum(others, most), 8)


def _inside(size: int, shift: int, device: torch.device) -> Tensor:
    """From which places along an axis a shift stays in the image."""
    end = torch.arange(size, device=device) + shift
    return (end >= 0) & (end < size)


def _outward(x: Tensor, loss: Tensor, gain: Tensor, roundings: int) -> tuple[Tensor, Tensor]:
    grown = 1 + roundings * 2.0**-52
    lower = torch.nextafter(x - grown * loss, x.new_tensor(-torch.inf)).clamp(min=0)
    upper = torch.nextafter(x + grown * gain, x.new_tensor(torch.inf))
    moved = (loss > 0) | (gain > 0)  # where nothing moves, exactly x
    return torch.where(moved, lower, x), torch.where(moved, upper, x)
