"""The operators in plain torch: the fallback where native code is missing, and what native code is tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from verifix.kernels.clopper_pearson_reference import clopper_pearson as clopper_pearson


def abs_median(
    x: Tensor,  # (batch, k, n)
) -> tuple[Tensor, Tensor]:
    """:func:`verifix.kernels.abs_median`, by sorting; differentiable by itself."""
    absolute = x.abs()
    not_a_number = absolute.isnan()
    median = absolute.detach().sort(dim=1).values[:, (x.shape[1] - 1) // 2]
    # A column with a NaN attains "the median" where it is NaN. argmax takes the first of equals.
    attains = torch.where(not_a_number.any(dim=1, keepdim=True), not_a_number, absolute == median.unsqueeze(1))
    index = attains.to(torch.uint8).argmax(dim=1)
    values = absolute.gather(1, index.unsqueeze(1)).squeeze(1)
    return values.masked_fill(values.isnan(), torch.nan), index


def add_votes(
    logits: Tensor,  # (n, count, classes)
    counts: Tensor,  # (n, classes + 1)
) -> None:
    """:func:`verifix.kernels.votes.add_votes`, by comparing with the largest entry."""
    attains = logits == logits.amax(dim=2, keepdim=True)
    # argmax takes the first of equals; a row of NaN attains nothing.
    answer = attains.to(torch.uint8).argmax(dim=2).masked_fill(logits.isnan().any(dim=2), logits.shape[2])
    counts.scatter_add_(1, answer, torch.ones_like(answer))
