"""What is known of an epoch: one line of the log."""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from verifix.train.settings import TrainSettings


@dataclass(frozen=True)
class Measures:
    """Averages over examples: cross-entropy and fraction of errors, of the inputs and of the bounds around them.

    The robust ones are None where no bounds were computed. An input counts as a robust error unless its bounds prove
    that no point of its set is misclassified; rounding is not accounted, so this is no certificate. In adversarial
    training they are those at the points that an attack finds, and prove nothing.

    In training for smoothing, ``loss`` and ``error`` are averages over noisy copies of the inputs too (of the attacked
    points, in training with an attack).

    Attributes:
        objective: in training, what is minimised, where that is none of the losses: for smoothing the loss and the
            penalty of ``adre``; in certified training the robust loss, the plain one and penalties together.
        smoothed_error: in validation, the fraction of inputs for which a vote over some noisy copies is not the label.
        estimated_radius: in validation, the mean of the l2 radii that those votes suggest, see
            :func:`verifix.train.validation.evaluate_under_noise`; an estimate, nothing certified.
    """

    examples: int
    loss: float
    error: float
    robust_loss: float | None
    robust_error: float | None
    objective: float | None = None
    smoothed_error: float | None = None
    estimated_radius: float | None = None

    @property
    def noisy(self) -> bool:
        """Whether they are of noisy copies, in training for smoothing."""
        return self.objective is not None and self.robust_loss is None

    @property
    def rank(self) -> tuple[float, float]:
        """What makes a model the better one, smallest first: the robust error, then the robust loss; in training for
        smoothing the estimated radius, largest first, then the loss."""
        if self.estimated_radius is not None:
            return -self.estimated_radius, self.loss
        if self.robust_error is None or self.robust_loss is None:
            return self.error, self.loss
        return self.robust_error, self.robust_loss


MEASURED = (
    "examples", "loss", "errors", "robust_loss", "robust_errors", "objective", "smoothed_errors", "radius"
)  # fmt: skip
"""What is summed over examples, in the order in which processes add it up."""


def sums_of(like: Tensor, **measured: Tensor | int) -> Tensor:
    """What :meth:`Sums.add` takes, in float64 on the device of ``like``; what is not given is zero."""
    row = like.new_zeros(len(MEASURED), dtype=torch.float64)
    for name, value in measured.items():
        row[MEASURED.index(name)] = value
    return row


@dataclass
class Sums:
    """What :class:`Measures` are averages of, while an epoch is under way, and what the epoch has cost."""

    examples: float = 0.0
    loss: float = 0.0
    errors: float = 0.0
    robust_loss: float = 0.0
    robust_errors: float = 0.0
    objective: float = 0.0
    smoothed_errors: float = 0.0
    radius: float = 0.0
    gradient: float = 0.0
    seconds: float = 0.0
    landscape_seconds: float = 0.0

    def add(self, measured: Sequence[float]) -> None:
        """Add what was summed over a batch, in the order of :data:`MEASURED`."""
        for name, value in zip(MEASURED, measured, strict=True):
            setattr(self, name, getattr(self, name) + value)

    def measures(self, robust: bool, *, objective: bool = False, smoothed: bool = False) -> Measures:
        """The averages; of the bounds, of what is minimised, and of votes, where those were summed."""
        n = self.examples
        return Measures(
            int(n),
            self.loss / n,
            self.errors / n,
            self.robust_loss / n if robust else None,
            self.robust_errors / n if robust else None,
            self.objective / n if objective else None,
            self.smoothed_errors / n if smoothed else None,
            self.radius / n if smoothed else None,
        )


@dataclass(frozen=True)
class Epoch:
    """One epoch, as a line of ``log.jsonl``.

    Attributes:
        epoch: counted from 1.
        steps: of the optimiser, since training began.
        eps, lr: of its last step; with an attack, ``eps`` is its radius.
        gradient: the mean norm of the gradient, before clipping.
        train: over all batches, at the eps and with the weights of each step.
        validation: after the epoch, at ``eps_test``, with nothing estimated; None where it was not looked at.
        best: whether it is the best so far of those at the full eps, which is what ``best.safetensors`` holds.
        cost: ``seconds`` of training and of validation, ``examples_per_second``, and ``peak_memory`` of the process (on
            a GPU of its tensors) in bytes: what a run that is repeated has otherwise. ``landscape_seconds`` too where
            the landscape was measured; they are no part of the others.
    """

    epoch: int
    steps: int
    eps: float
    lr: float
    gradient: float
    train: Measures
    validation: Measures | None
    best: bool
    cost: dict[str, float] = field(compare=False)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Epoch:
        """From what :meth:`to_json` gave."""
        train, validation = values["train"], values["validation"]
        known = {"train": Measures(**train), "validation": None if validation is None else Measures(**validation)}
        return cls(**{**values, **known})


def best_epoch(history: Sequence[Epoch]) -> Epoch | None:
    """The best so far: the last one that was best when it came."""
    return next((epoch for epoch in reversed(history) if epoch.best), None)


def is_best(validation: Measures | None, history: Sequence[Epoch]) -> bool:
    """Whether what validation has found now is better than all that it found before."""
    before = best_epoch(history)
    if validation is None or before is None or before.validation is None:
        return validation is not None
    return validation.rank < before.validation.rank


def out_of_patience(settings: TrainSettings, history: Sequence[Epoch]) -> bool:
    """Whether training has gone on for ``patience`` epochs without a better one, since eps was reached."""
    best = best_epoch(history)
    return settings.patience is not None and best is not None and history[-1].epoch - best.epoch >= settings.patience


def peak_memory(device: torch.device) -> int:
    """The most bytes in use so far: of tensors on a GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
