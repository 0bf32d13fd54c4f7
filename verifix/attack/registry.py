"""The attacks by name, as the command line and run folders call them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from typing import Any

from verifix.attack.base import Attack
from verifix.attack.unions import MultiSteepestDescent, WorstOf
from verifix.errors import InvalidType, InvalidValue
from verifix.sets.ball import NORMS
from verifix.spelling import name_and_settings, split_outside

ATTACKS: dict[str, str] = {
    "apgd": "apgd:APGD",
    "apgd-targeted": "apgd:TargetedAPGD",
    "fgsm": "fast_gradient:FGSM",
    "uniform-fgsm": "fast_gradient:UniformFGSM",
    "r-fgsm": "fast_gradient:RandomFGSM",
    "bim": "projected_gradient:BIM",
    "pgd": "projected_gradient:PGD",
    "mim": "projected_gradient:MIM",
    "square": "square:Square",
    "deepfool": "deepfool:DeepFool",
    "ddn": "ddn:DDN",
    "carlini-wagner": "carlini_wagner:CarliniWagner",
    "gaussian-noise": "noise:GaussianNoise",
    "salt-and-pepper": "noise:SaltAndPepper",
    "msd": "unions:MultiSteepestDescent",
    "worst": "unions:WorstOf",
    "plan-pgd": "wasserstein.plan_descent:PlanPGD",
    "frank-wolfe": "wasserstein.frank_wolfe:FrankWolfe",
    "sinkhorn-pgd": "wasserstein.sinkhorn_descent:SinkhornPGD",
    "flow-pgd": "wasserstein.flow_descent:FlowPGD",
}
"""Name of each attack, and where its class is: module of this package, colon, class."""

STANDARD = "standard"
"""The name that stands for the attacks of :func:`standard`."""


def attack_class(name: str) -> type[Attack]:
    """The class of an attack.

    Raises:
        InvalidValue: there is none of this name.

    >>> attack_class("pgd").__name__
    'PGD'
    """
    if name not in ATTACKS:
        raise InvalidValue("attack", repr(name), f"choose one of {', '.join(sorted(ATTACKS))}, {STANDARD}")
    module, _, kind = ATTACKS[name].partition(":")
    found: type[Attack] = getattr(import_module(f"verifix.attack.{module}"), kind)
    return found


def parse_attacks(
    text: str, options: Mapping[str, Any] | None = None, norm: str | Sequence[str] = "linf"
) -> dict[str, Attack]:
    """The attacks that a text names, such as ``pgd``, ``pgd(steps=50, loss="margin")+square`` or ``standard``.

    Args:
        text: names joined by ``+``, each with settings in parentheses where some are wanted; they are literals.
        options: settings of every attack that has them, unless it is given its own; none of them may be in vain.
        norm: of the threat model, ``standard`` depends on it; of a union those of its members. An attack that is not
            made for unions is one on each member by itself then, and the worst of them.

    Raises:
        InvalidValue, InvalidType: a name or setting that is not known, or cannot be.

    >>> parse_attacks("fgsm+pgd", {"steps": 10})
    {'fgsm': FGSM(loss='cross-entropy'), 'pgd': PGD(steps=10, ...)}
    >>> parse_attacks("fgsm", norm=["linf", "l2"])
    {'fgsm': WorstOf(attacks=(FGSM(loss='cross-entropy'),), loss='margin')}
    """
    given = {name: value for name, value in (options or {}).items() if value is not None}
    named: dict[str, Attack] = {}
    for part in split_outside(text, "+"):
        name, settings = _parse(part)
        attacks = {part: make_attack(name, settings, given)} if name != STANDARD else _standard(part, settings, norm)
        for label, attack in attacks.items():
            if label in named:
                raise InvalidValue("attack", text, f"names {label} twice")
            for_unions = isinstance(norm, str) or isinstance(attack, (MultiSteepestDescent, WorstOf))
            named[label] = attack if for_unions else WorstOf(attacks=(attack,))
    kinds = {kind for label, attack in named.items() if label in split_outside(text, "+") for kind in _kinds(attack)}
    known = sorted(set[str]().union(*map(_options, kinds)))
    for name, value in given.items():
        if name not in known:
            raise InvalidValue(name, value, f"{text} takes none: it has {', '.join(known) or 'no settings'}")
    return named


def make_attack(name: str, settings: Mapping[str, Any], options: Mapping[str, Any] | None = None) -> Attack:
    """An attack with settings, all of which it must have, and with those of ``options`` that it has.

    Raises:
        InvalidValue, InvalidType: a name or setting that is not known, or cannot be.

    >>> make_attack("fgsm", {"steps": 3})
    Traceback (most recent call last):
    ...
    verifix.errors.InvalidValue: steps = 3: fgsm takes none: it has loss
    """
    kind = attack_class(name)
    known = _options(kind)
    for option, value in settings.items():
        if option not in known:
            raise InvalidValue(option, value, f"{name} takes none: it has {', '.join(sorted(known))}")
    if kind is WorstOf:
        return kind(**{**settings, "attacks": _members(settings.get("attacks", ("pgd",)), options)})
    given = {option: value for option, value in (options or {}).items() if option in known}
    return kind(**{**given, **settings})


def _members(names: object, options: Mapping[str, Any] | None) -> tuple[Attack, ...]:
    """The attacks of ``worst``, by their names."""
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise InvalidType("attacks", names, 'names, as in \'worst(attacks=["apgd", "ddn"])\'')
    return tuple(make_attack(*_parse(name.strip()), options) for name in names)


def _kinds(attack: Attack) -> set[type[Attack]]:
    """What may have settings: the attack, or those that it is the worst of."""
    return {type(each) for each in attack.attacks} if isinstance(attack, WorstOf) else {type(attack)}


def _options(kind: type[Attack]) -> set[str]:
    return {field.name for field in fields(kind) if field.init}


def _parse(part: str) -> tuple[str, dict[str, Any]]:
    return name_and_settings(part, "attack", 'pgd(steps=50, loss="margin")')


def standard(norm: str | Sequence[str]) -> dict[str, Attack]:
    """A strong set of attacks with nothing to choose, for lp balls, in the manner of AutoAttack's (Croce and Hein 2020;
    for l1 of 2021): APGD with the cross-entropy, its targeted form with the difference of logits ratio, and Square.

    FAB, which AutoAttack has between the last two, is not among them.

    Args:
        norm: of the threat model: ``linf``, ``l2`` or ``l1``; of a union those of its members, each of which is
            attacked by itself.

    Raises:
        InvalidValue: another norm.
    """
    if not isinstance(norm, str):
        each = [standard(one) for one in norm]
        return {name: WorstOf(attacks=tuple(attacks[name] for attacks in each)) for name in each[0]}
    if norm not in NORMS:
        raise InvalidValue("norm", norm, f"{STANDARD} is for {', '.join(NORMS)}: name attacks one by one")
    untargeted, targets = ({"restarts": 5}, 5) if norm == "l1" else ({"restarts": 1}, 9)
    return {
        "apgd": make_attack("apgd", untargeted),
        "apgd-targeted": make_attack("apgd-targeted", {"targets": targets}),
        "square": make_attack("square", {"queries": 5000}),
    }


def _standard(part: str, settings: Mapping[str, Any], norm: str | Sequence[str]) -> dict[str, Attack]:
    if settings:
        raise InvalidValue("attack", part, "takes no settings: name its attacks one by one")
    return standard(norm)
