"""What settings of training are checked for; each function gives the values that take the place of what was given."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from verifix.bounds import NAMED, Estimator, parse_method
from verifix.errors import InvalidType, InvalidValue
from verifix.sets import Union

if TYPE_CHECKING:
    from verifix.train.settings import TrainSettings

ADVERSARIAL = ("fgsm", "pgd", "msd", "worst", "augmentation")
"""The methods that train at the points that an attack finds, see :mod:`verifix.train.adversarial`; no bounds."""
OVER_UNIONS = ("msd", "worst", "augmentation")
"""Those of them whose attacks are on a union of balls."""
STANDARD = "none"
"""The method of standard training: plain cross-entropy, no bounds."""
SMOOTHING = ("gaussian", "adre", "adre-adv", "smoothadv")
"""The methods that train under noise for randomized smoothing, see :mod:`verifix.train.smoothing`; no bounds."""
Values = dict[str, object]


def check_bounds(settings: TrainSettings, estimator: Estimator) -> None:
    """The bounds of a method that is none of the others: ``method``, and whether ``estimator`` is for it."""
    for name in settings.method.split("+"):
        if ":" not in name and name.strip().lower() not in NAMED:
            alone = ", ".join((STANDARD, *SMOOTHING, *ADVERSARIAL))
            bounds = f"{', '.join(NAMED)} or 'intermediate:slopes', or several joined by '+'"
            remedy = f"choose one of {bounds}; or, by itself, one of {alone}"
            raise InvalidValue("method", repr(name.strip()), remedy)
    parse_method(settings.method, estimator)


def check_objective(settings: TrainSettings) -> Values:
    """What a step of certified training minimises: ``beta``, ``kappa``, ``l1``; and ``eps_test`` and ``eps_warmup``."""
    bounded = settings.bounded
    beta, kappa = weights("beta", settings.beta), weights("kappa", settings.kappa)
    warmup, l1 = number("eps_warmup", settings.eps_warmup), number("l1", settings.l1)
    _refuse_unused(settings, beta=bounded or beta == (1.0, 1.0), kappa=bounded or kappa == (0.0, 0.0))
    _refuse_unused(settings, eps_test=bounded or settings.eps_test is None)
    _refuse_unused(settings, eps_warmup=bounded or not warmup, l1=bounded or not l1)
    if bounded and beta != (1.0, 1.0):
        methods = parse_method(settings.method)
        if len(methods) > 1:
            remedy = f"method {settings.method} takes the best of several bounds and mixes none: leave it out"
            raise InvalidValue("beta", beta, remedy)
        if methods[0].slopes == "constant":
            raise InvalidValue("beta", beta, f"mixes a bound with that of {settings.method}: name another method")
    values: Values = {"beta": beta, "kappa": kappa, "eps_warmup": warmup, "l1": l1}
    if settings.eps_test is not None:
        eps = number("eps_test", settings.eps_test)
        if eps > settings.eps:
            remedy = f"must be at most eps = {settings.eps:g}, which training is for: train with a larger eps"
            raise InvalidValue("eps_test", eps, remedy)
        values["eps_test"] = eps
    return values


def check_start(settings: TrainSettings) -> Values:
    """What makes short training work: ``initialisation``, ``regulariser`` and its tolerance, and ``batch_norm``."""
    weight = number("regulariser", settings.regulariser)
    tolerance = number("regulariser_tolerance", settings.regulariser_tolerance, above=True)
    through_graph = settings.bounded or settings.standard
    _refuse_unused(settings, regulariser=settings.bounded or not weight)
    _refuse_unused(settings, initialisation=through_graph or settings.initialisation == "none")
    _refuse_unused(settings, batch_norm=through_graph or settings.batch_norm == "stored")
    return {"regulariser": weight, "regulariser_tolerance": tolerance}


def check_ramp(settings: TrainSettings) -> Values:
    """How eps rises: ``eps_start`` and ``eps_ramp``, after ``eps_warmup``."""
    warmup, epochs = settings.eps_warmup, settings.epochs
    usual = 0.0 if warmup else settings.eps / 10
    start = usual if settings.eps_start is None else number("eps_start", settings.eps_start)
    if start > settings.eps:
        raise InvalidValue("eps_start", start, f"must be at most eps = {settings.eps:g}")
    if warmup >= epochs:
        raise InvalidValue("eps_warmup", warmup, f"must be below epochs = {epochs}, so that eps is reached")
    ramp = min(epochs / 3, epochs - warmup) if settings.eps_ramp is None else settings.eps_ramp
    ramp = number("eps_ramp", ramp, above=True)
    if warmup + ramp > epochs:
        before = f" less the {warmup:g} of eps_warmup" if warmup else ""
        raise InvalidValue("eps_ramp", ramp, f"must be at most epochs = {epochs}{before}, so that eps is reached")
    return {"eps_start": start, "eps_ramp": ramp}


def check_smoothing(settings: TrainSettings) -> Values:
    """Training under noise, and the attack of either kind of training that has one."""
    method, values = settings.method, Values()
    adre, attacks = method in ("adre", "adre-adv"), settings.adversarial
    applies = {
        "sigma": settings.smoothing,
        "noises": settings.smoothing,
        "validation_noises": settings.smoothing,
        "adre_weight": adre,
        "probability_floor": adre,
        "attack_eps": attacks,
        "attack_steps": attacks or settings.by_examples,
        "attack_step": attacks or settings.by_examples,
        "attack_warmup": attacks,
    }
    _refuse_unused(settings, **{name: needed or getattr(settings, name) is None for name, needed in applies.items()})
    if settings.smoothing:
        if settings.sigma is None:
            remedy = f"method {method} needs the standard deviation of the noise, such as 0.5"
            raise InvalidValue("sigma", None, remedy)
        values["sigma"] = number("sigma", settings.sigma, above=True)
        usual = 1 if method == "gaussian" else 8
        values["noises"] = whole("noises", usual if settings.noises is None else settings.noises, 1)
        votes = 16 if settings.validation_noises is None else settings.validation_noises
        values["validation_noises"] = whole("validation_noises", votes, 1)
    if adre:
        weight, floor = settings.adre_weight, settings.probability_floor
        values["adre_weight"] = 0.1 if weight is None else number("adre_weight", weight)
        floor = 1e-6 if floor is None else number("probability_floor", floor, above=True)
        if floor >= 1:
            raise InvalidValue("probability_floor", floor, "must be above 0 and below 1")
        values["probability_floor"] = floor
    if attacks:
        if settings.attack_eps is None:
            remedy = f"method {method} needs the l2 radius of its attack, such as 0.5"
            raise InvalidValue("attack_eps", None, remedy)
        eps = number("attack_eps", settings.attack_eps, above=True)
        steps = 2 if settings.attack_steps is None else settings.attack_steps
        whole("attack_steps", steps, 1)
        step, warmup = settings.attack_step, settings.attack_warmup
        step = 2 * eps / steps if step is None else number("attack_step", step, above=True)
        warmup = min(10.0, settings.epochs / 3) if warmup is None else number("attack_warmup", warmup)
        if warmup > settings.epochs:
            remedy = f"must be at most epochs = {settings.epochs}, so that attack_eps is reached"
            raise InvalidValue("attack_warmup", warmup, remedy)
        values |= {"attack_eps": eps, "attack_steps": steps, "attack_step": step, "attack_warmup": warmup}
    return values


def check_adversarial(settings: TrainSettings) -> Values:
    """Training at the points that an attack finds, without noise."""
    method, values = settings.method, Values()
    over_union = method in OVER_UNIONS
    if settings.union is not None:
        if not over_union:
            remedy = f"method {method} has no use for it: choose one of {', '.join(OVER_UNIONS)}"
            raise InvalidValue("union", repr(settings.union), remedy)
        if not isinstance(settings.union, str):
            raise InvalidType("union", settings.union, "its spelling, such as linf:0.3,l2:1.5,l1:12")
        radii = [member.eps for member in Union.parse(settings.union, settings.box).members]
        if not any(radii):
            raise InvalidValue("union", repr(settings.union), f"method {method} needs a radius above 0")
        if settings.norm != "linf":  # which nobody has to say
            raise InvalidValue("norm", repr(settings.norm), "the union says which norms: leave it out")
        values["union"] = "".join(settings.union.split())
    if over_union and settings.union is None:
        remedy = f"method {method} needs norms and radii, such as linf:0.3,l2:1.5,l1:12"
        raise InvalidValue("union", None, remedy)
    if not settings.by_examples:
        return values
    if over_union and not settings.eps:
        values["eps"] = 1.0
    elif not settings.eps:
        raise InvalidValue("eps", settings.eps, f"method {method} needs the radius of its attack, such as 0.1")
    one = method == "fgsm"
    steps = (1 if one else 10) if settings.attack_steps is None else settings.attack_steps
    whole("attack_steps", steps, 1)
    if one and steps != 1:
        raise InvalidValue("attack_steps", steps, "fgsm has one step: leave it out, or use pgd")
    step = (1.25 if one else 2.5 / steps) if settings.attack_step is None else settings.attack_step
    return {**values, "attack_steps": steps, "attack_step": number("attack_step", step, above=True)}


def _refuse_unused(settings: TrainSettings, **fits: bool) -> None:
    for name, fit in fits.items():
        if not fit:
            remedy = f"method {settings.method} has no use for it: leave it out, or choose another method"
            raise InvalidValue(name, getattr(settings, name), remedy)


def whole(name: str, value: object, least: int, *, optional: bool = False) -> int | None:
    """A whole number of at least ``least``; or None, where that may be."""
    if optional and value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidType(name, value, "a whole number")
    if value < least:
        raise InvalidValue(name, value, f"must be at least {least}")
    return value


def number(name: str, value: object, *, above: bool = False) -> float:
    """A finite number of at least, or above, 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidType(name, value, "a number")
    if not math.isfinite(value) or value < 0 or (above and value == 0):
        raise InvalidValue(name, value, f"must be finite and {'above' if above else 'at least'} 0")
    return float(value)


def pair(name: str, value: object) -> tuple[float, float]:
    """Two numbers."""
    numbers = isinstance(value, (tuple, list)) and all(
        isinstance(side, (int, float)) and not isinstance(side, bool) for side in value
    )
    if not numbers or not isinstance(value, (tuple, list)) or len(value) != 2:
        raise InvalidType(name, value, "a pair of numbers")
    return float(value[0]), float(value[1])


def weights(name: str, value: object) -> tuple[float, float]:
    """Two numbers within [0, 1]: at the start, and at the end."""
    start, end = pair(name, value)
    if not (0 <= start <= 1 and 0 <= end <= 1):
        raise InvalidValue(name, f"{start:g} {end:g}", "both, at the start and at the end, must lie within [0, 1]")
    return start, end
