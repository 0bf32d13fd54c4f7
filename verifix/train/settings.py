"""Everything that decides what training gives, in one value that is written beside the weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from verifix.bounds import NAMED, Estimator, Method, parse_method
from verifix.errors import InvalidType, InvalidValue
from verifix.sets import Ball, Union
from verifix.sets.base import Norm
from verifix.train.batch_norm import BatchNormMode
from verifix.train.checks import (
    ADVERSARIAL,
    SMOOTHING,
    STANDARD,
    check_adversarial,
    check_bounds,
    check_objective,
    check_ramp,
    check_smoothing,
    check_start,
    number,
    pair,
    whole,
)
from verifix.train.initialisation import Initialisation
from verifix.train.schedules import EpsSchedule, LearningRateSchedule, eps_at, lr_at, weight_at

Optimiser = Literal["adam", "sgd"]
DEFAULT_MEMORY = 1 << 30
"""Fixed, and no share of what is free: how a batch is cut is part of what training gives, to the last bit."""


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
        eps_start, eps_ramp: where eps starts, and after how many epochs it is ``eps``; a tenth of ``eps`` (0 after a
            warm-up), and a third of ``epochs``, where they are not given.
        eps_warmup: so many epochs of plain training, at eps 0, come first; ``eps_ramp`` counts from their end.
        eps_test: the radius of validation, ``eps`` by default, which may be larger but not smaller.
        beta: the weight of the method's bound at the start and at the end, the rest being that of ``ibp``; it goes with
            eps, see :func:`verifix.train.schedules.weight_at`.
        kappa: the weight of the plain cross-entropy, which goes likewise; the rest is that of the robust one.
        l1: what the sum of the absolute weights, of all parameters of two or more dimensions, is multiplied by.
        initialisation: ``ibp`` draws weights anew before the first step, see :mod:`verifix.train.initialisation`;
            ``none`` trains them from what they are.
        regulariser, regulariser_tolerance: the weight of what keeps bounds narrow and units in balance while eps rises,
            and its tolerance, see :mod:`verifix.train.regularisers`.
        batch_norm: ``clean`` trains batch norm with statistics of clean inputs, see :mod:`verifix.train.batch_norm`;
            ``stored`` leaves those that are stored alone.
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
    beta: tuple[float, float] = (1.0, 1.0)
    kappa: tuple[float, float] = (0.0, 0.0)
    eps_test: float | None = None
    eps_warmup: float = 0.0
    l1: float = 0.0
    initialisation: Initialisation = "none"
    regulariser: float = 0.0
    regulariser_tolerance: float = 0.5
    batch_norm: BatchNormMode = "stored"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "lr_every", "validation_every", "patience", "validation_limit"):
            whole(name, getattr(self, name), 1, optional=name in ("patience", "validation_limit"))
        whole("seed", self.seed, 0)
        whole("memory", self.memory, 1)
        for name, kind in (
            ("optimiser", Optimiser),
            ("eps_schedule", EpsSchedule),
            ("lr_schedule", LearningRateSchedule),
            ("initialisation", Initialisation),
            ("batch_norm", BatchNormMode),
        ):
            if getattr(self, name) not in get_args(kind):
                raise InvalidValue(name, repr(getattr(self, name)), f"choose one of {', '.join(get_args(kind))}")
        for name in ("eps", "lr_start", "weight_decay", "momentum", "validation"):
            self._set(name, number(name, getattr(self, name)))
        for name in ("lr", "lr_factor"):
            self._set(name, number(name, getattr(self, name), above=True))
        if self.clip is not None:
            self._set("clip", number("clip", self.clip, above=True))
        if self.momentum >= 1:
            raise InvalidValue("momentum", self.momentum, "must be at least 0 and below 1")
        if self.validation >= 1 and self.validation != int(self.validation):
            raise InvalidValue("validation", self.validation, "give a fraction below 1 or a number of examples")
        if not isinstance(self.lr_milestones, (tuple, list)):
            raise InvalidType("lr_milestones", self.lr_milestones, "the epochs, as a tuple")
        self._set("lr_milestones", tuple(whole("lr_milestones", epoch, 0) for epoch in self.lr_milestones))
        if self.lr_schedule == "multistep" and not self.lr_milestones:
            raise InvalidValue("lr_milestones", self.lr_milestones, "lr_schedule multistep needs at least one epoch")
        if self.patience is not None and not self.validation:
            raise InvalidValue("patience", self.patience, "needs validation examples: give validation")
        self._check_perturbations()
        self._take(check_smoothing(self))
        self._take(check_start(self))

    def _check_perturbations(self) -> None:
        if self.box is not None:
            self._set("box", pair("box", self.box))
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
        self._take(check_adversarial(self))
        if not isinstance(self.estimator, str):
            raise InvalidType("estimator", self.estimator, "its spelling, such as median:50")
        estimator = Estimator.parse(self.estimator)
        self._set("estimator", str(estimator))
        if not self.bounded and not estimator.exact:
            remedy = f"method {self.method} has nothing to estimate: leave it out"
            raise InvalidValue("estimator", self.estimator, remedy)
        if self.bounded:
            check_bounds(self, estimator)
        self._take(check_objective(self))
        self._take(check_ramp(self))

    def _take(self, values: Mapping[str, object]) -> None:
        for name, value in values.items():
            self._set(name, value)

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
    def composed(self) -> bool:
        """Whether what a step minimises has more terms than the one loss of its method."""
        return self.kappa != (0.0, 0.0) or self.l1 > 0 or self.regulariser > 0

    @property
    def minimised(self) -> str:
        """Which of the measures of an epoch it is that a step minimises."""
        if self.smoothing or self.composed:
            return "objective"
        return "robust_loss" if self.robust else "loss"

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
        """The bounds that training uses, with the seed of their projections and slopes; none where it uses none."""
        methods = parse_method(self.method, Estimator.parse(self.estimator, seed=seed)) if self.bounded else ()
        return tuple(method.seeded(seed) for method in methods)

    @property
    def exact_methods(self) -> tuple[Method, ...]:
        """The same with nothing estimated, and with the seed that the method names: the bounds that a certificate would
        use.

        Where the final ``beta`` is below 1, that of ``ibp`` is among them: training relied on it.
        """
        methods = parse_method(self.method) if self.bounded else ()
        return methods if self.beta[1] == 1 else (*methods, NAMED["ibp"])

    def ball(self, eps: float | None = None) -> Ball:
        """The perturbations, of the full radius or of one on the way to it."""
        return Ball(self.norm, self.eps if eps is None else eps, self.box)

    @property
    def validation_ball(self) -> Ball:
        """The perturbations that validation, and what chooses by it, looks at: of radius ``eps_test``."""
        return self.ball(self.eps_test)

    def eps_at(self, position: float) -> float:
        """The radius at a position, in epochs: of the perturbations, or of the attack of a method for smoothing."""
        if self.adversarial:
            return eps_at(position, "linear", 0.0, self.attack_eps or 0.0, self.attack_warmup or 0.0)
        start, ramp = self.eps_start or 0.0, self.eps_ramp or 0.0
        return eps_at(position, self.eps_schedule, start, self.eps, ramp, warmup=self.eps_warmup)

    def beta_at(self, eps: float) -> float:
        """The weight of the method's bound at a radius on the way."""
        return weight_at(eps, self.eps, *self.beta)

    def kappa_at(self, eps: float) -> float:
        """The weight of the plain cross-entropy at a radius on the way."""
        return weight_at(eps, self.eps, *self.kappa)

    def regulariser_at(self, eps: float) -> float:
        """The weight of the regularisers at a radius on the way: none in the end."""
        return self.regulariser * weight_at(eps, self.eps, 1.0, 0.0) if self.regulariser else 0.0

    def reached(self, position: float) -> bool:
        """Whether eps is what it should become."""
        if self.smoothing:
            return position >= (self.attack_warmup or 0.0)
        ramp = 0.0 if self.standard or self.eps_schedule == "constant" else self.eps_ramp or 0.0
        return position >= self.eps_warmup + ramp

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
