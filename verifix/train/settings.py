"""Everything that decides what training gives, in one value that is written beside the weights."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from verifix.bounds import Estimator, Method, parse_method
from verifix.errors import InvalidType, InvalidValue
from verifix.sets import Ball, Union
from verifix.sets.base import Norm
from verifix.train.schedules import EpsSchedule, LearningRateSchedule, eps_at, lr_at

Optimiser = Literal["adam", "sgd"]
DEFAULT_MEMORY = 1 << 30
"""Fixed, and no share of what is free: how a batch is cut is part of what training gives, to the last bit."""
STANDARD = "none"
"""The method of standard training: plain cross-entropy, no bounds."""
SMOOTHING = ("gaussian", "adre", "adre-adv", "smoothadv")
"""The methods that train under noise for randomized smoothing, see :mod:`verifix.train.smoothing`; no bounds."""
ADVERSARIAL = ("fgsm", "pgd", "msd", "worst", "augmentation")
"""The methods that train at the points that an attack finds, see :mod:`verifix.train.adversarial`; no bounds."""
OVER_UNIONS = ("msd", "worst", "augmentation")
"""Those of them whose attacks are on a union of balls."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How to train; checked when it is made, and written as JSON beside what it gave.

    Args:
        norm, eps, box: the perturbations to be robust against, in units of the raw input, as in :class:`verifix.Ball`.
        method: how outputs are bounded, as in :func:`verifix.certify`; ``none`` trains without any (then eps is 0), and
            so do ``gaussian``, ``adre``, ``adre-adv`` and ``smoothadv``, which train under noise for randomized
            smoothing: see :mod:`verifix.train.smoothing`; and ``fgsm``, ``pgd``, ``msd``, ``worst`` and
            ``augmentation``, which train at the points that an attack finds: see :mod:`verifix.train.adversarial`.
        union: for ``msd``, ``worst`` and ``augmentation``, norms and radii such as ``linf:0.3,l2:1.5,l1:12``, in place
            of ``norm``; ``eps`` is then a factor of all of the radii, 1 by default, and rises like any other.
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
        seed: of the order of examples, of what is held out, of projections and of noise.
        sigma: the standard deviation of the noise of methods for smoothing, in units of the raw input; they need it.
        noises: how many noisy copies of each example make a step; by default 1 for ``gaussian`` and 8 for the others.
        validation_noises: how many copies of each validation example vote, 16 by default; always the same ones.
        adre_weight, probability_floor: lambda (0.1) of ``adre`` and ``adre-adv``, and what keeps their penalty above
            ``lambda log(floor)`` (1e-6).
        attack_eps: the l2 radius of the attack of ``adre-adv`` and ``smoothadv``, in units of the raw input; they need
            it. It rises linearly from 0 over the first ``attack_warmup`` epochs, by default a third, but at most 10.
        attack_steps, attack_step: how many steps the attack has (2), and how long each is at the full radius
            (``2 attack_eps / attack_steps``). Of adversarial training: 10 steps, each this fraction of the radius
            (``2.5 / attack_steps``; 1.25 for ``fgsm``, which has one).

    Raises:
        InvalidValue, InvalidType: the argument, its value and what to do.

    >>> settings = TrainSettings(eps=0.1, epochs=6)
    >>> settings.eps_start, settings.eps_ramp, round(settings.eps_at(1.0), 3)
    (0.01, 2.0, 0.055)
    >>> TrainSettings.from_json(settings.to_json()) == settings
    True
    >>> settings = TrainSettings(method="smoothadv", sigma=0.5, attack_eps=1.0)
    >>> settings.noises, settings.attack_steps, settings.attack_step, round(settings.eps_at(1.0), 3)
    (8, 2, 1.0, 0.15)
    >>> settings = TrainSettings(method="msd", union="linf:0.3, l2:1.5")
    >>> settings.union, settings.eps, settings.attack_steps, settings.attack_step
    ('linf:0.3,l2:1.5', 1.0, 10, 0.25)
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
    sigma: float | None = None
    noises: int | None = None
    validation_noises: int | None = None
    adre_weight: float | None = None
    probability_floor: float | None = None
    attack_eps: float | None = None
    attack_steps: int | None = None
    attack_step: float | None = None
    attack_warmup: float | None = None
    union: str | None = None

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
        self._check_smoothing()

    def _check_perturbations(self) -> None:
        if self.box is not None:
            self._set("box", _box(self.box))
        self._set("norm", Ball(self.norm, self.eps, self.box).norm)
        if not isinstance(self.method, str):
            raise InvalidType("method", self.method, "a name, or names joined by +")
        if self.standard and self.eps:
            raise InvalidValue("eps", self.eps, "method none trains without perturbations: leave eps out")
        if self.adversarial and self.eps:
            raise InvalidValue(
                "eps", self.eps, f"the radius of the attack of {self.method} is attack_eps: leave eps out"
            )
        if self.smoothing and self.eps:
            raise InvalidValue("eps", self.eps, f"method {self.method} trains under noise of sigma: leave eps out")
        self._check_adversarial()
        if not isinstance(self.estimator, str):
            raise InvalidType("estimator", self.estimator, "its spelling, such as median:50")
        estimator = Estimator.parse(self.estimator)
        self._set("estimator", str(estimator))
        if not self.bounded and not estimator.exact:
            remedy = f"method {self.method} has nothing to estimate: leave it out"
            raise InvalidValue("estimator", self.estimator, remedy)
        if self.bounded:
            parse_method(self.method, estimator)
        start = self.eps / 10 if self.eps_start is None else _number("eps_start", self.eps_start)
        if start > self.eps:
            raise InvalidValue("eps_start", start, f"must be at most eps = {self.eps:g}")
        ramp = self.epochs / 3 if self.eps_ramp is None else _number("eps_ramp", self.eps_ramp, above=True)
        if ramp > self.epochs:
            raise InvalidValue("eps_ramp", ramp, f"must be at most epochs = {self.epochs}, so that eps is reached")
        self._set("eps_start", start)
        self._set("eps_ramp", ramp)

    def _check_smoothing(self) -> None:
        adre, attacks = self.method in ("adre", "adre-adv"), self.adversarial
        applies = {
            "sigma": self.smoothing,
            "noises": self.smoothing,
            "validation_noises": self.smoothing,
            "adre_weight": adre,
            "probability_floor": adre,
            "attack_eps": attacks,
            "attack_steps": attacks or self.by_examples,
            "attack_step": attacks or self.by_examples,
            "attack_warmup": attacks,
        }
        for name, needed in applies.items():
            if not needed and getattr(self, name) is not None:
                remedy = f"method {self.method} has no use for it: leave it out, or choose another method"
                raise InvalidValue(name, getattr(self, name), remedy)
        if self.smoothing:
            if self.sigma is None:
                remedy = f"method {self.method} needs the standard deviation of the noise, such as 0.5"
                raise InvalidValue("sigma", None, remedy)
            self._set("sigma", _number("sigma", self.sigma, above=True))
            usual = 1 if self.method == "gaussian" else 8
            self._set("noises", _whole("noises", usual if self.noises is None else self.noises, 1))
            votes = 16 if self.validation_noises is None else self.validation_noises
            self._set("validation_noises", _whole("validation_noises", votes, 1))
        if adre:
            weight, floor = self.adre_weight, self.probability_floor
            self._set("adre_weight", 0.1 if weight is None else _number("adre_weight", weight))
            floor = 1e-6 if floor is None else _number("probability_floor", floor, above=True)
            if floor >= 1:
                raise InvalidValue("probability_floor", floor, "must be above 0 and below 1")
            self._set("probability_floor", floor)
        if attacks:
            if self.attack_eps is None:
                remedy = f"method {self.method} needs the l2 radius of its attack, such as 0.5"
                raise InvalidValue("attack_eps", None, remedy)
            eps = _number("attack_eps", self.attack_eps, above=True)
            steps = 2 if self.attack_steps is None else self.attack_steps
            _whole("attack_steps", steps, 1)
            step, warmup = self.attack_step, self.attack_warmup
            self._set("attack_eps", eps)
            self._set("attack_steps", steps)
            self._set("attack_step", 2 * eps / steps if step is None else _number("attack_step", step, above=True))
            warmup = min(10.0, self.epochs / 3) if warmup is None else _number("attack_warmup", warmup)
            if warmup > self.epochs:
                remedy = f"must be at most epochs = {self.epochs}, so that attack_eps is reached"
                raise InvalidValue("attack_warmup", warmup, remedy)
            self._set("attack_warmup", warmup)

    def _check_adversarial(self) -> None:
        over_union = self.method in OVER_UNIONS
        if self.union is not None:
            if not over_union:
                remedy = f"method {self.method} has no use for it: choose one of {', '.join(OVER_UNIONS)}"
                raise InvalidValue("union", repr(self.union), remedy)
            if not isinstance(self.union, str):
                raise InvalidType("union", self.union, "its spelling, such as linf:0.3,l2:1.5,l1:12")
            Union.parse(self.union, self.box)
            self._set("union", "".join(self.union.split()))
        if over_union and self.union is None:
            remedy = f"method {self.method} needs norms and radii, such as linf:0.3,l2:1.5,l1:12"
            raise InvalidValue("union", None, remedy)
        if not self.by_examples:
            return
        if over_union and not self.eps:
            self._set("eps", 1.0)
        if not self.eps:
            raise InvalidValue("eps", self.eps, f"method {self.method} needs the radius of its attack, such as 0.1")
        one = self.method == "fgsm"
        steps = (1 if one else 10) if self.attack_steps is None else self.attack_steps
        _whole("attack_steps", steps, 1)
        if one and steps != 1:
            raise InvalidValue("attack_steps", steps, "fgsm has one step: leave it out, or use pgd")
        step = (1.25 if one else 2.5 / steps) if self.attack_step is None else self.attack_step
        self._set("attack_steps", steps)
        self._set("attack_step", _number("attack_step", step, above=True))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # frozen: while it is being made alone

    @property
    def standard(self) -> bool:
        """Whether training is by plain cross-entropy."""
        return self.method == STANDARD

    @property
    def smoothing(self) -> bool:
        """Whether training is under noise, for randomized smoothing."""
        return self.method in SMOOTHING

    @property
    def adversarial(self) -> bool:
        """Whether training under noise is at points that an attack finds."""
        return self.method in ("adre-adv", "smoothadv")

    @property
    def by_examples(self) -> bool:
        """Whether training is at points that an attack finds, without noise."""
        return self.method in ADVERSARIAL

    @property
    def bounded(self) -> bool:
        """Whether training is by bounds, and not by what the network answers at some inputs."""
        return not self.standard and not self.smoothing and not self.by_examples

    @property
    def robust(self) -> bool:
        """Whether robust losses and errors are measured, and the loss is what is minimised: by bounds or attacks."""
        return self.bounded or self.by_examples

    @property
    def copies(self) -> int:
        """How many points a step works on for each example."""
        if self.method == "augmentation" and self.union is not None:
            return len(Union.parse(self.union).members)
        return self.noises or 1

    def threat(self, eps: float | None = None) -> Ball | Union:
        """What adversarial training is to be robust against, at the full eps or at one on the way to it."""
        eps = self.eps if eps is None else eps
        return self.ball(eps) if self.union is None else Union.parse(self.union, self.box).scaled(eps)

    def methods(self, seed: int = 0) -> tuple[Method, ...]:
        """The bounds that training uses, with the seed of their projections; none where it uses none."""
        return parse_method(self.method, Estimator.parse(self.estimator, seed=seed)) if self.bounded else ()

    @property
    def exact_methods(self) -> tuple[Method, ...]:
        """The same with nothing estimated: the bounds that a certificate would use."""
        return parse_method(self.method) if self.bounded else ()

    def ball(self, eps: float | None = None) -> Ball:
        """The perturbations, of the full radius or of one on the way to it."""
        return Ball(self.norm, self.eps if eps is None else eps, self.box)

    def eps_at(self, position: float) -> float:
        """The radius at a position, in epochs: of the perturbations, or of the attack of a method for smoothing."""
        if self.adversarial:
            return eps_at(position, "linear", 0.0, self.attack_eps or 0.0, self.attack_warmup or 0.0)
        start, ramp = self.eps_start or 0.0, self.eps_ramp or 0.0
        return eps_at(position, self.eps_schedule, start, self.eps, ramp)

    def reached(self, position: float) -> bool:
        """Whether eps is what it should become."""
        if self.smoothing:
            return position >= (self.attack_warmup or 0.0)
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
