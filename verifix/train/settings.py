"""Everything that decides what training gives, in one value that is written beside the weights."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from verifix.bounds import Estimator, Method, parse_method
from verifix.errors import InvalidType, InvalidValue
from verifix.sets import Ball
from verifix.sets.base import Norm
from verifix.train.schedules import EpsSchedule, LearningRateSchedule, eps_at, lr_at

Optimiser = Literal["adam", "sgd"]
DEFAULT_MEMORY = 1 << 30
"""Fixed, and no share of what is free: how a batch is cut is part of what training gives, to the last bit."""
STANDARD = "none"
"""The method of standard training: plain cross-entropy, no bounds."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How to train; checked when it is made, and written as JSON beside what it gave.

    Args:
        norm, eps, box: the perturbations to be robust against, in units of the raw input, as in :class:`verifix.Ball`.
        method: how outputs are bounded, as in :func:`verifix.certify`; ``none`` trains without any (then eps is 0).
        estimator: how the norms in hidden bounds are evaluated: ``exact``, ``median:50``, ``gaussian:50`` for l2; see
            ``docs/projections.md``. Every step draws anew; validation is exact in any case.
        epochs, batch: of training; with several processes ``batch`` is what all of them do in one step.
        eps_schedule: ``constant``, ``linear`` or ``smoothed``, see :func:`verifix.train.schedules.eps_at`.
        eps_start, eps_ramp: where eps starts, and after how many epochs it is ``eps``; a tenth of ``eps``, and a third
            of ``epochs``, where they are not given.
        optimiser: ``adam`` or ``sgd``. lr, momentum (of ``sgd`` alone) and weight_decay are its own.
        lr_schedule: ``constant``, ``step``, ``multistep`` or ``cosine``, see :func:`verifix.train.schedules.lr_at`,
            which says what ``lr_factor``, ``lr_every``, ``lr_start`` and ``lr_milestones`` do.
        clip: the largest norm that the gradient keeps; None leaves it alone.
        validation: how much of the data is held out: a fraction below 1, or a number of examples; 0 for none.
        validation_limit: only that many of them are looked at.
        validation_every: epochs between two looks; the last epoch is always looked at.
        patience: stop when the validation error has not fallen for so many epochs at the full eps; None never stops.
        memory: byte budget of a step: a batch that would need more is worked through in parts.
        seed: of the order of examples, of what is held out, and of projections.

    Raises:
        InvalidValue, InvalidType: the argument, its value and what to do.

    >>> settings = TrainSettings(eps=0.1, epochs=6)
    >>> settings.eps_start, settings.eps_ramp, round(settings.eps_at(1.0), 3)
    (0.01, 2.0, 0.055)
    >>> TrainSettings.from_json(settings.to_json()) == settings
    True
    """

    eps: float = 0.0
    norm: Norm = "linf"
    box: tuple[float, float] | None = None
    method: str = "cap"
    estimator: str = "exact"
    epochs: int = 20
    batch: int = 50
    eps_schedule: EpsSchedule = "linear"
    eps_start: float | None = None
    eps_ramp: float | None = None
    optimiser: Optimiser = "adam"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    lr_schedule: LearningRateSchedule = "constant"
    lr_factor: float = 0.5
    lr_every: int = 10
    lr_start: float = 0.0
    lr_milestones: tuple[int, ...] = ()
    clip: float | None = None
    validation: float = 0.1
    validation_limit: int | None = None
    validation_every: int = 1
    patience: int | None = None
    memory: int = DEFAULT_MEMORY
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "lr_every", "validation_every", "patience", "validation_limit"):
            _whole(name, getattr(self, name), 1, optional=name in ("patience", "validation_limit"))
        _whole("seed", self.seed, 0)
        _whole("memory", self.memory, 1)
        for name, kind in (
            ("optimiser", Optimiser),
            ("eps_schedule", EpsSchedule),
            ("lr_schedule", LearningRateSchedule),
        ):
            if getattr(self, name) not in get_args(kind):
                raise InvalidValue(name, repr(getattr(self, name)), f"choose one of {', '.join(get_args(kind))}")
        for name in ("eps", "lr_start", "weight_decay", "momentum", "validation"):
            self._set(name, _number(name, getattr(self, name)))
        for name in ("lr", "lr_factor"):
            self._set(name, _number(name, getattr(self, name), above=True))
        if self.clip is not None:
            self._set("clip", _number("clip", self.clip, above=True))
        if self.momentum >= 1:
            raise InvalidValue("momentum", self.momentum, "must be at least 0 and below 1")
        if self.validation >= 1 and self.validation != int(self.validation):
            raise InvalidValue("validation", self.validation, "give a fraction below 1 or a number of examples")
        if not isinstance(self.lr_milestones, (tuple, list)):
            raise InvalidType("lr_milestones", self.lr_milestones, "the epochs, as a tuple")
        self._set("lr_milestones", tuple(_whole("lr_milestones", epoch, 0) for epoch in self.lr_milestones))
        if self.lr_schedule == "multistep" and not self.lr_milestones:
            raise InvalidValue("lr_milestones", self.lr_milestones, "lr_schedule multistep needs at least one epoch")
        if self.patience is not None and not self.validation:
            raise InvalidValue("patience", self.patience, "needs validation examples: give validation")
        self._check_perturbations()

    def _check_perturbations(self) -> None:
        if self.box is not None:
            self._set("box", _box(self.box))
        self._set("norm", Ball(self.norm, self.eps, self.box).norm)
        if not isinstance(self.method, str):
            raise InvalidType("method", self.method, "a name, or names joined by +")
        if self.standard and self.eps:
            raise InvalidValue("eps", self.eps, "method none trains without perturbations: leave eps out")
        if not isinstance(self.estimator, str):
            raise InvalidType("estimator", self.estimator, "its spelling, such as median:50")
        estimator = Estimator.parse(self.estimator)
        self._set("estimator", str(estimator))
        if self.standard and not estimator.exact:
            raise InvalidValue("estimator", self.estimator, "method none has nothing to estimate: leave it out")
        if not self.standard:
            parse_method(self.method, estimator)
        start = self.eps / 10 if self.eps_start is None else _number("eps_start", self.eps_start)
        if start > self.eps:
            raise InvalidValue("eps_start", start, f"must be at most eps = {self.eps:g}")
        ramp = self.epochs / 3 if self.eps_ramp is None else _number("eps_ramp", self.eps_ramp, above=True)
        if ramp > self.epochs:
            raise InvalidValue("eps_ramp", ramp, f"must be at most epochs = {self.epochs}, so that eps is reached")
        self._set("eps_start", start)
        self._set("eps_ramp", ramp)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # frozen: while it is being made alone

    @property
    def standard(self) -> bool:
        """Whether training is by plain cross-entropy."""
        return self.method == STANDARD

    def methods(self, seed: int = 0) -> tuple[Method, ...]:
        """The bounds that training uses, with the seed of their projections; none for standard training."""
        return () if self.standard else parse_method(self.method, Estimator.parse(self.estimator, seed=seed))

    @property
    def exact_methods(self) -> tuple[Method, ...]:
        """The same with nothing estimated: the bounds that a certificate would use."""
        return () if self.standard else parse_method(self.method)

    def ball(self, eps: float | None = None) -> Ball:
        """The perturbations, of the full radius or of one on the way to it."""
        return Ball(self.norm, self.eps if eps is None else eps, self.box)

    def eps_at(self, position: float) -> float:
        """The radius at a position, in epochs."""
        start, ramp = self.eps_start or 0.0, self.eps_ramp or 0.0
        return eps_at(position, self.eps_schedule, start, self.eps, ramp)

    def reached(self, position: float) -> bool:
        """Whether eps is what it should become."""
        return self.standard or self.eps_schedule == "constant" or position >= (self.eps_ramp or 0.0)

    def lr_at(self, position: float) -> float:
        """The learning rate at a position, in epochs."""
        return lr_at(
            position,
            self.lr_schedule,
            self.lr,
            epochs=self.epochs,
            factor=self.lr_factor,
            every=self.lr_every,
            start=self.lr_start,
            milestones=self.lr_milestones,
        )

    def stream(self, purpose: str, *position: int) -> int:
        """The seed of one purpose at one position, so that nothing depends on what was drawn before."""
        text = "/".join(map(str, (self.seed, purpose, *position)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainSettings:
        """From what :meth:`to_json` gave.

        Raises:
            InvalidValue: a name that is no setting, or a value that cannot be used.
        """
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise InvalidValue("settings", key, f"is no setting; these are {', '.join(known)}")
        arguments: dict[str, Any] = {
            k: tuple(value) if isinstance(value, list) else value for k, value in values.items()
        }
        return cls(**arguments)


def _whole(name: str, value: object, least: int, *, optional: bool = False) -> int | None:
    if optional and value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidType(name, value, "a whole number")
    if value < least:
        raise InvalidValue(name, value, f"must be at least {least}")
    return value


def _number(name: str, value: object, *, above: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidType(name, value, "a number")
    if not math.isfinite(value) or value < 0 or (above and value == 0):
        raise InvalidValue(name, value, f"must be finite and {'above' if above else 'at least'} 0")
    return float(value)


def _box(box: object) -> tuple[float, float]:
    if not isinstance(box, (tuple, list)) or len(box) != 2 or not all(isinstance(side, (int, float)) for side in box):
        raise InvalidType("box", box, "a pair of numbers")
    return float(box[0]), float(box[1])
