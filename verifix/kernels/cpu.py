"""The operators on the CPU: hands pointers to ``verifix._C``."""

from __future__ import annotations

import torch
from torch import Tensor

from verifix.kernels import native, reference


def abs_median(
    x: Tensor,  # (batch, k, n)
) -> tuple[Tensor, Tensor]:
    """:func:`verifix.kernels.abs_median` on the CPU; the argument has been checked."""
    library = native.module_or_none("verifix._C")
    if library is None:
        return reference.abs_median(x)
    x = x.contiguous()
    batch, k, n = x.shape
    values = x.new_empty(batch, n)
    index = torch.empty(batch, n, dtype=torch.int64)
    library.abs_median(
        x=x.data_ptr(),
        values=values.data_ptr(),
        index=index.data_ptr(),
        batch=batch,
        k=k,
        n=n,
        dtype=str(x.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        isa=native.isa(),
    )
    return values, index


def add_votes(
    logits: Tensor,  # (n, count, classes)
    counts: Tensor,  # (n, classes + 1)
) -> None:
    """:func:`verifix.kernels.votes.add_votes` on the CPU; the arguments have been checked."""
    library = native.module_or_none("verifix._C")
    if library is None:
        return reference.add_votes(logits, counts)
    logits = logits.contiguous()
    n, count, classes = logits.shape
    library.add_votes(
        logits=logits.data_ptr(),
        counts=counts.data_ptr(),
        n=n,
        count=count,
        classes=classes,
        dtype=str(logits.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
    )
    return None


def clopper_pearson(
    successes: Tensor,  # (...)
    trials: Tensor,  # (...)
    level: Tensor,  # (...)
) -> tuple[Tensor, Tensor]:
    """:func:`verifix.kernels.clopper_pearson` on the CPU; the arguments have been checked."""
    library = native.module_or_none("verifix._C")
    if library is None:
        return reference.clopper_pearson(successes, trials, level)
    successes, trials, level = successes.contiguous(), trials.contiguous(), level.contiguous()
    lower, failure = level.new_empty(level.shape), level.new_empty(level.shape)
    library.clopper_pearson(
        successes=successes.data_ptr(),
        trials=trials.data_ptr(),
        level=level.data_ptr(),
        lower=lower.data_ptr(),
        failure=failure.data_ptr(),
        count=level.numel(),
        threads=torch.get_num_threads(),
    )
    return lower, failure
