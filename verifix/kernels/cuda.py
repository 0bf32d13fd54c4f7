"""The operators on a CUDA device: hands pointers and the current stream to ``verifix._C_cuda``, and does not wait."""

from __future__ import annotations

import torch
from torch import Tensor

from verifix.kernels import native, reference


def abs_median(
    x: Tensor,  # (batch, k, n)
) -> tuple[Tensor, Tensor]:
    """:func:`verifix.kernels.abs_median` on a CUDA device; the argument has been checked."""
    library = native.module_or_none("verifix._C_cuda")
    if library is None:
        return reference.abs_median(x)
    x = x.contiguous()
    batch, k, n = x.shape
    values = x.new_empty(batch, n)
    index = torch.empty(batch, n, dtype=torch.int64, device=x.device)
    with torch.cuda.device(x.device):
        library.abs_median(
            x=x.data_ptr(),
            values=values.data_ptr(),
            index=index.data_ptr(),
            batch=batch,
            k=k,
            n=n,
            dtype=str(x.dtype).removeprefix("torch."),
            stream=torch.cuda.current_stream(x.device).cuda_stream,
        )
    return values, index


def add_votes(
    logits: Tensor,  # (n, count, classes)
    counts: Tensor,  # (n, classes + 1)
) -> None:
    """:func:`verifix.kernels.votes.add_votes` on a CUDA device; the arguments have been checked."""
    library = native.module_or_none("verifix._C_cuda")
    if library is None:
        return reference.add_votes(logits, counts)
    logits = logits.contiguous()
    n, count, classes = logits.shape
    with torch.cuda.device(logits.device):
        library.add_votes(
            logits=logits.data_ptr(),
            counts=counts.data_ptr(),
            n=n,
            count=count,
            classes=classes,
            dtype=str(logits.dtype).removeprefix("torch."),
            stream=torch.cuda.current_stream(logits.device).cuda_stream,
        )
    return None


def clopper_pearson(
    successes: Tensor,  # (...)
    trials: Tensor,  # (...)
    level: Tensor,  # (...)
) -> tuple[Tensor, Tensor]:
    """:func:`verifix.kernels.clopper_pearson` on a CUDA device; the arguments have been checked."""
    library = native.module_or_none("verifix._C_cuda")
    if library is None:
        return reference.clopper_pearson(successes, trials, level)
    successes, trials, level = successes.contiguous(), trials.contiguous(), level.contiguous()
    lower, failure = level.new_empty(level.shape), level.new_empty(level.shape)
    with torch.cuda.device(level.device):
        library.clopper_pearson(
            successes=successes.data_ptr(),
            trials=trials.data_ptr(),
            level=level.data_ptr(),
            lower=lower.data_ptr(),
            failure=failure.data_ptr(),
            count=level.numel(),
            stream=torch.cuda.current_stream(level.device).cuda_stream,
        )
    return lower, failure
