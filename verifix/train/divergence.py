"""Training that is not finite any more: what to say, and what may have caused it."""

from __future__ import annotations

from pathlib import Path

from verifix.errors import UserError
from verifix.train.settings import TrainSettings


class TrainingDiverged(UserError, ArithmeticError):
    """Loss, gradient or weights became NaN or infinite; the message says where, why (likely), and what to do."""


def diverged(
    what: str, settings: TrainSettings, lr: float, *, rising: bool, broken: bool, kept: Path | None
) -> TrainingDiverged:
    """The error.

    Args:
        what: what is not finite, and where.
        rising: whether eps is still on its way to its full value.
        broken: whether weights are not finite either.
        kept: the folder that keeps a checkpoint.
    """
    if broken:
        cause = f"the step before has made weights infinite: lr = {lr:g} is too large"
    elif rising:
        cause = f"eps rises too fast, or lr = {lr:g} is too large"
    else:
        cause = f"lr = {lr:g} is too large" + (" for bounds at this eps" if settings.eps else "")
    remedy = "a smaller lr" + (", a larger eps_ramp" if settings.eps else "") + ", or clip the gradient (clip 1)"
    end = "" if kept is None else f"; {kept} keeps its last checkpoint"
    return TrainingDiverged(f"{what}: the likely cause is that {cause}; try {remedy}{end}")
