"""Clopper-Pearson bounds on the probability behind a binomial count."""

from __future__ import annotations

import torch
from torch import Tensor

from verifix.errors import InvalidType, InvalidValue
from verifix.kernels import cpu, cuda, reference

MOST_TRIALS = 1 << 40
"""What a count may at most be of."""


def clopper_pearson(
    successes: Tensor,  # (...)
    trials: Tensor,  # (...)
    level: Tensor,  # (...)
) -> tuple[Tensor, Tensor]:
    """For counts ``successes`` ~ Bin(``trials``, p), a lower bound on p and an upper bound on 1 - p.

    Each entry by itself is wrong with probability at most its level, whatever p is, and both bounds of an entry are
    wrong together: ``lower`` is the p with ``P(Bin(trials, p) >= successes) = level`` (Clopper and Pearson 1934,
    one-sided), rounded down, and ``failure`` is one minus that p, rounded up, each to within 1e-12 relative of the
    exact value. With no success they are 0 and 1. An upper bound on p is the ``failure`` of the other outcomes:
    ``clopper_pearson(trials - successes, trials, level)[1]``.

    Results are the same in every bit on every device and for every number of threads. A level outside of (0, 1), or a
    count out of range, gets the bounds that always hold: 0 and 1.

    Args:
        successes, trials: int64, of one shape; 0 <= successes <= trials <= 2^40.
        level: float64, of the same shape.

    Returns:
        lower, failure: float64, of that shape.

    Raises:
        InvalidType: an argument is not a tensor.
        InvalidValue: the arguments differ in shape or device, or have another type.

    >>> def tensor(x): return torch.tensor([x])
    >>> lower, failure = clopper_pearson(tensor(99_000), tensor(100_000), tensor(0.001).double())
    >>> f"{lower.item():.6f} {failure.item():.6f}"
    '0.988989 0.011011'
    """
    for name, x in (("successes", successes), ("trials", trials), ("level", level)):
        if not isinstance(x, Tensor):
            raise InvalidType(name, x, "a torch.Tensor")
    lower, failure = torch.ops.verifix.clopper_pearson(successes, trials, level)
    return lower, failure


def _check(successes: Tensor, trials: Tensor, level: Tensor) -> None:
    wanted = (("successes", successes, torch.int64), ("trials", trials, torch.int64), ("level", level, torch.float64))
    for name, x, dtype in wanted:
        if x.dtype != dtype:
            raise InvalidValue(f"{name}.dtype", x.dtype, f"must be {dtype}")
        if x.shape != successes.shape or x.device != successes.device:
            found = f"of shape {tuple(x.shape)} on {x.device}"
            raise InvalidValue(name, found, f"must be as successes, {tuple(successes.shape)} on {successes.device}")


def _fake(successes: Tensor, trials: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    _check(successes, trials, level)
    return level.new_empty(level.shape), level.new_empty(level.shape)


def _reference(successes: Tensor, trials: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    _check(successes, trials, level)
    return reference.clopper_pearson(successes, trials, level)


def _cpu(successes: Tensor, trials: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    _check(successes, trials, level)
    return cpu.clopper_pearson(successes, trials, level)


def _cuda(successes: Tensor, trials: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    _check(successes, trials, level)
    return cuda.clopper_pearson(successes, trials, level)


torch.library.define("verifix::clopper_pearson", "(Tensor successes, Tensor trials, Tensor level) -> (Tensor, Tensor)")
torch.library.register_fake("verifix::clopper_pearson", _fake)
torch.library.register_kernel("verifix::clopper_pearson", "default", _reference)
torch.library.register_kernel("verifix::clopper_pearson", "cpu", _cpu)
torch.library.register_kernel("verifix::clopper_pearson", "cuda", _cuda)
