"""Rows through lines in plain torch: the fallback where there is no native code, and what that is tested against."""

from __future__ import annotations

import torch
from torch import Tensor

Sides = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""Slopes and offsets ``(n, m)`` for positive entries and for negative ones, and the shift ``(m,)``."""


def pull_lines(
    rows: Tensor,  # (n, r, m)
    lines: Sides,
    wants_rows: bool,
) -> tuple[Tensor, Tensor]:
    """Pulled rows ``(n, r, m)``, or an empty tensor where they are not wanted, and offsets ``(n, r)``."""
    slope_p, offset_p, slope_n, offset_n, shift = lines
    positive, negative = rows.clamp(min=0), rows.clamp(max=0)
    offset = rows.new_zeros(rows.shape[:2])
    for part, line in ((positive, offset_p), (negative, offset_n)):
        if line is not None:
            offset = offset + torch.bmm(part, line[:, :, None])[:, :, 0]
    if not wants_rows:
        return rows.new_empty(0), offset
    pulled = torch.zeros_like(rows)
    for part, line in ((positive, slope_p), (negative, slope_n)):
        if line is not None:
            pulled = pulled + part * line[:, None]
    return pulled, offset if shift is None else offset + pulled @ shift


def gradient(
    rows: Tensor,  # (n, r, m)
    lines: Sides,
    of_pulled: Tensor | None,  # (n, r, m)
    of_offset: Tensor,  # (n, r)
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the rows, of the four lines and of the shift; differentiable."""
    slope_p, offset_p, slope_n, offset_n, shift = lines
    side = rows >= 0
    towards = of_offset[:, :, None]
    if shift is not None:
        of_pulled = shift * towards if of_pulled is None else of_pulled + shift * towards

    def through(slope: Tensor | None, offset: Tensor | None) -> Tensor:
        total = torch.zeros_like(rows)
        if slope is not None and of_pulled is not None:
            total = total + slope[:, None] * of_pulled
        return total if offset is None else total + offset[:, None] * towards

    of_rows = torch.where(side, through(slope_p, offset_p), through(slope_n, offset_n))
    positive, negative = rows.clamp(min=0), rows.clamp(max=0)
    flat = rows.new_zeros(len(rows), rows.shape[2])
    of_slopes = [flat if of_pulled is None else (part * of_pulled).sum(1) for part in (positive, negative)]
    of_offsets = [(part * towards).sum(1) for part in (positive, negative)]
    of_shift = flat.sum(0)
    for slope, part in zip((slope_p, slope_n), of_offsets, strict=True):
        of_shift = of_shift if slope is None else of_shift + (slope * part).sum(0)
    return of_rows, of_slopes[0], of_offsets[0], of_slopes[1], of_offsets[1], of_shift
