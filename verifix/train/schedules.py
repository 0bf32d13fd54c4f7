"""Schedules as functions of the position in training, so that there is no state to lose.

A position is counted in epochs: 2.5 is the middle of the third epoch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

EpsSchedule = Literal["constant", "linear", "smoothed"]
LearningRateSchedule = Literal["constant", "step", "multistep", "cosine"]

_MIDDLE = 0.25
_POWER = 4


def eps_at(
    position: float, schedule: EpsSchedule, start: float, target: float, ramp: float, *, warmup: float = 0.0
) -> float:
    """The radius at a position: exactly 0 for ``warmup`` epochs, then from ``start`` to ``target`` within ``ramp``.

    With ``u = (position - warmup) / ramp`` in [0, 1] and ``eps = start + (target - start) p(u)``:

    - ``constant``: ``p = 1`` throughout.
    - ``linear``: ``p(u) = u`` (thesis, section 3.3.1, in steps of one epoch there).
    - ``smoothed``: ``p(u) = a u^4`` up to ``m = 1/4``, then the straight line from ``(m, a m^4)`` to ``(1, 1)``, with
      ``a = 1 / (4 m^3 (1 - m) + m^4)``, so that the slope has no jump (Xu et al., "Automatic perturbation analysis for
      scalable certified robustness and beyond", whose schedule Shi et al. use too).

    >>> [round(eps_at(position, "linear", 0.0, 0.4, 4), 3) for position in (0, 1, 3, 5)]
    [0.0, 0.1, 0.3, 0.4]
    >>> [round(eps_at(position, "smoothed", 0.0, 1.0, 4), 3) for position in (0, 0.5, 1, 4)]
    [0.0, 0.005, 0.077, 1.0]
    >>> [round(eps_at(position, "linear", 0.0, 0.4, 4, warmup=2), 3) for position in (0, 1.9, 3, 6)]
    [0.0, 0.0, 0.1, 0.4]
    """
    if position < warmup:
        return 0.0
    if schedule == "constant" or position >= warmup + ramp:
        return target
    u = max(position - warmup, 0.0) / ramp
    return start + (target - start) * (u if schedule == "linear" else _smoothed(u))


def _smoothed(u: float) -> float:
    scale = 1 / (_POWER * _MIDDLE ** (_POWER - 1) * (1 - _MIDDLE) + _MIDDLE**_POWER)
    if u <= _MIDDLE:
        return scale * u**_POWER
    middle = scale * _MIDDLE**_POWER
    return middle + (1 - middle) * (u - _MIDDLE) / (1 - _MIDDLE)


def weight_at(eps: float, target: float, start: float, end: float) -> float:
    """A weight that goes with the radius: ``start + (end - start) eps / target``.

    It is ``end``, exactly, at the target and beyond, where the target is 0, and therefore throughout a constant
    schedule (Zhang et al., "Towards stable and efficient training of verifiably robust neural networks", for beta and
    kappa of CROWN-IBP).

    >>> [round(weight_at(eps, 0.4, 1.0, 0.5), 3) for eps in (0.0, 0.1, 0.4)]
    [1.0, 0.875, 0.5]
    """
    return end if eps >= target else start + (end - start) * (eps / target)


def lr_at(
    position: float,
    schedule: LearningRateSchedule,
    lr: float,
    *,
    epochs: int,
    factor: float,
    every: int,
    start: float,
    milestones: Sequence[int],
) -> float:
    """The learning rate at a position.

    - ``constant``: ``lr``.
    - ``step``: times ``factor`` after every ``every`` epochs, counted from epoch ``start`` on.
    - ``multistep``: times ``factor`` after each of the ``milestones``, in epochs.
    - ``cosine``: ``lr / 2 (1 + cos(pi position / epochs))``.

    >>> options = dict(epochs=60, factor=0.5, every=10, start=20, milestones=())
    >>> [lr_at(position, "step", 0.001, **options) for position in (0, 29.9, 30, 45)]
    [0.001, 0.001, 0.0005, 0.00025]
    """
    if schedule == "step":
        return lr * factor ** int(max(position - start, 0.0) // every)
    if schedule == "multistep":
        return lr * factor ** sum(position >= milestone for milestone in milestones)
    if schedule == "cosine":
        return lr * (1 + math.cos(math.pi * min(position / epochs, 1.0))) / 2
    return lr
