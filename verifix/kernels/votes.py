"""Counting what a classifier answers on noisy copies."""

from __future__ import annotations

import torch
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.kernels import cpu, cuda, reference


def add_votes(
    logits: Tensor,  # (n, count, classes)
    counts: Tensor,  # (n, classes + 1) int64
) -> None:
    """Add the votes of a batch of answers to the counts of each input, in place and without waiting for the device.

    A row of logits votes for its largest entry, the smallest class among equals. A row with any NaN votes for the last
    column, ``classes``: it is an answer that no prediction can claim, and so counts against each of them.

    Args:
        logits: ``(n, count, classes)`` float32 or float64, any strides, classes >= 1.
        counts: ``(n, classes + 1)`` int64, contiguous, on the same device.

    Raises:
        InvalidType: an argument is not a tensor.
        InvalidValue: an argument is not of the shape, type or device above.

    >>> logits = torch.tensor([[[0.0, 2.0, 2.0], [1.0, 0.0, 0.0], [torch.nan, 5.0, 0.0]]])
    >>> counts = torch.zeros(1, 4, dtype=torch.int64)
    >>> add_votes(logits, counts)
    >>> counts
    tensor([[1, 1, 0, 1]])
    """
    for name, tensor in (("logits", logits), ("counts", counts)):
        if not isinstance(tensor, Tensor):
            raise InvalidType(name, tensor, "a torch.Tensor")
    torch.ops.verifix.add_votes(logits, counts)


def _check(logits: Tensor, counts: Tensor) -> None:
    if logits.dim() != 3 or logits.shape[2] == 0:
        raise InvalidValue("logits.shape", tuple(logits.shape), "must be (n, count, classes) with a class at least")
    if logits.dtype not in (torch.float32, torch.float64):
        raise InvalidValue("logits.dtype", logits.dtype, "must be torch.float32 or torch.float64")
    wanted = (logits.shape[0], logits.shape[2] + 1)
    if tuple(counts.shape) != wanted:
        raise InvalidValue("counts.shape", tuple(counts.shape), f"must be (n, classes + 1) = {wanted}")
    if counts.dtype != torch.int64 or not counts.is_contiguous():
        raise InvalidValue("counts", f"{counts.dtype}, strides {counts.stride()}", "must be contiguous torch.int64")
    if counts.device != logits.device:
        raise InvalidValue("counts.device", counts.device, f"must be that of the logits, {logits.device}")


def _fake(logits: Tensor, counts: Tensor) -> None:
    _check(logits, counts)


def _reference(logits: Tensor, counts: Tensor) -> None:
    _check(logits, counts)
    reference.add_votes(logits, counts)


def _cpu(logits: Tensor, counts: Tensor) -> None:
    _check(logits, counts)
    cpu.add_votes(logits, counts)


def _cuda(logits: Tensor, counts: Tensor) -> None:
    _check(logits, counts)
    cuda.add_votes(logits, counts)


torch.library.define("verifix::add_votes", "(Tensor logits, Tensor(a!) counts) -> ()")
torch.library.register_fake("verifix::add_votes", _fake)
torch.library.register_kernel("verifix::add_votes", "default", _reference)
torch.library.register_kernel("verifix::add_votes", "cpu", _cpu)
torch.library.register_kernel("verifix::add_votes", "cuda", _cuda)
