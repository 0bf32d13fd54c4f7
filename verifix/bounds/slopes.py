"""Rules for the free slopes of activations that are neither names nor fixed: drawn at random, or optimised.

A free slope is given by its share, in [0, 1], of the way from the least slope that is sound to the largest: for ReLU
the share is the slope of the lower line itself. Every share is sound, so that nothing here can make a bound wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import Tensor

from verifix.draws import Draws
from verifix.errors import InvalidType, InvalidValue
from verifix.operations import Nonlinear, Slopes

Start = Literal["uniform", "same", "adaptive", "zero", "one"]
Rows = Literal["shared", "own"]
_NODES = 1 << 16
"""More than any graph has nodes: draws of one input differ by node and by restart, of which there are as many at most,
so that both together make a number of a draw."""


@dataclass(frozen=True)
class _Seeded:
    """What both rules have: a seed, and a spelling ``name:key=value``."""

    name: ClassVar[str]

    def seeded(self, seed: int) -> Self:
        """The same rule with another seed."""
        return replace(self, seed=seed)  # type: ignore[call-arg]  # every rule has one

    @classmethod
    def parse(cls, options: Mapping[str, str]) -> Self:
        """From the ``key=value`` of a spelling.

        Raises:
            InvalidValue: an option that the rule does not have, or a value that it cannot use.
        """
        known = {field.name: field for field in fields(cls)}
        values: dict[str, object] = {}
        for key, text in options.items():
            if key not in known:
                raise InvalidValue(key, repr(text), f"{cls.name} slopes have the options {', '.join(known)}")
            values[key] = _number(key, text, str(known[key].type))
        return cls(**values)

    def __str__(self) -> str:
        options = ((field, getattr(self, field.name)) for field in fields(self))
        # of 1e+20 the sign would join methods
        spelled = (f"{field.name}={value}".replace("e+", "e") for field, value in options if value != field.default)
        return ":".join([self.name, *spelled])


@dataclass(frozen=True)
class RandomSlopes(_Seeded):
    """Free slopes drawn at random, for each undecided unit of each input.

    Args:
        p, q: neither: uniform on [0, 1] (Lee et al., figure 3, RANDOM). Both: 0 or 1, and 1 with probability ``p``
            where ``adaptive`` takes 0 (of ReLU: where ``|l| >= |u|``) and ``q`` where it takes 1; so that ``(0, 1)`` is
            ``adaptive`` (Lee et al., section 5).
        seed: of the draws, which are keyed by the values of the input too: they do not depend on what else is in the
            batch.

    >>> str(RandomSlopes(p=0.0, q=0.5)), RandomSlopes.parse({"seed": "3"}).seed
    ('random:p=0.0:q=0.5', 3)
    """

    name: ClassVar[str] = "random"
    p: float | None = None
    q: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.p is None) != (self.q is None):
            raise InvalidValue("p" if self.p is None else "q", None, "random slopes take both p and q, or neither")
        for name in ("p", "q"):
            if (value := getattr(self, name)) is not None:
                _check_number(name, value, 0, 1)
        _check_whole("seed", self.seed, 0)

    def shares(self, draws: Draws, node: int, operation: Nonlinear, lower: Tensor, upper: Tensor) -> Tensor:
        """Shares ``(n, free, *shape)`` for pre-activation bounds ``(n, *shape)`` of the ``node``-th node."""
        drawn = uniform(draws, node, 0, lower, operation.free)
        if self.p is None or self.q is None:
            return drawn
        steep = operation.shares(lower.detach(), upper.detach(), "adaptive") > 0
        likely = torch.where(steep, torch.full_like(drawn, self.q), self.p)
        # a draw is 0 at the least and 1 at the most: neither probability 0 nor 1 may fail
        return ((drawn < likely) | (likely == 1)).to(lower)


@dataclass(frozen=True)
class OptimisedSlopes(_Seeded):
    """Free slopes of the last pass, from a start by projected sign-gradient steps on what the bounds are for.

    One step of size above 1 from a uniform start is the rule of Lee et al. (equation 7); many short ones are
    alpha-CROWN (Xu et al.), here for the rows that are asked for and not for hidden bounds. What is descended is, of
    shared slopes, the cross-entropy of the rows as margins, ``log(1 + sum_m exp(-lower_m))`` of each input; of own
    slopes the row's bound itself.

    Args:
        steps: how many steps are made.
        step: how far each goes, ``eta``: from 1 on every share with a gradient ends at 0 or 1 after one step.
        start: ``uniform``: drawn on [0, 1]; or as a rule by name has it. Without steps these are ``interval:random``
            with the same seed, and that rule.
        slopes: ``shared`` among the rows of an input, or each row its ``own``: tighter, for as many slopes.
        restarts: of several starts the best of each row is taken; those after the first are ``uniform``.
        seed: of the draws, as in :class:`RandomSlopes`.

    >>> str(OptimisedSlopes()), str(OptimisedSlopes(steps=20, step=0.1, slopes="own"))
    ('optimised', 'optimised:steps=20:step=0.1:slopes=own')
    """

    name: ClassVar[str] = "optimised"
    steps: int = 1
    step: float = 2.0
    start: Start = "uniform"
    slopes: Rows = "shared"
    restarts: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        _check_whole("steps", self.steps, 0)
        _check_whole("restarts", self.restarts, 1, _NODES)
        _check_whole("seed", self.seed, 0)
        _check_number("step", self.step, 0, math.inf)
        for name, kind in (("start", Start), ("slopes", Rows)):
            if getattr(self, name) not in get_args(kind):
                raise InvalidValue(name, repr(getattr(self, name)), f"choose one of {', '.join(get_args(kind))}")


RULES: dict[str, type[RandomSlopes] | type[OptimisedSlopes]] = {"random": RandomSlopes, "optimised": OptimisedSlopes}
SlopeRule = Slopes | RandomSlopes | OptimisedSlopes


def parse_slopes(spelling: str) -> SlopeRule:
    """From a name, and ``key=value`` after colons where the rule has options.

    Raises:
        InvalidValue: for anything else.
    """
    name, *options = spelling.strip().lower().split(":")
    if name in RULES:
        return RULES[name].parse(options_of(spelling, options))
    if options or name not in get_args(Slopes):
        raise InvalidValue("slopes", repr(spelling), f"choose one of {', '.join((*get_args(Slopes), *RULES))}")
    return name  # type: ignore[return-value]  # one of them


def options_of(spelling: str, options: Sequence[str]) -> dict[str, str]:
    """The options of a spelling by their keys."""
    pairs = [option.partition("=") for option in options]
    for (key, equals, value), option in zip(pairs, options, strict=True):
        if not (key and equals and value):
            raise InvalidValue("method", repr(spelling), f"write its options as key=value, not {option!r}")
    if len({key for key, _, _ in pairs}) < len(pairs):
        raise InvalidValue("method", repr(spelling), "has an option twice")
    return {key: value for key, _, value in pairs}


def uniform(draws: Draws, node: int, restart: int, like: Tensor, free: int) -> Tensor:
    """Numbers on [0, 1], ``(n, free, *shape)``, for an activation ``(n, *shape)`` of the ``node``-th node."""
    wanted = like.detach()[:, None].expand(-1, free, *like.shape[1:])
    drawn = draws.uniform(torch.arange(len(like)), wanted, sample=restart * _NODES + node, tag=1)
    return (drawn + 1) / 2


def _number(name: str, text: str, kind: str) -> object:
    if kind not in ("int", "float", "float | None"):
        return text
    try:
        return int(text) if kind == "int" else float(text)
    except ValueError:
        raise InvalidValue(name, repr(text), f"must be a {'whole ' if kind == 'int' else ''}number") from None


def _check_number(name: str, value: object, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidType(name, value, "a number")
    if not least <= value <= most or not math.isfinite(value):
        limits = f"must be at least {least:g}" if most == math.inf else f"must lie in [{least:g}, {most:g}]"
        raise InvalidValue(name, value, limits + " and finite" * (most == math.inf))


def _check_whole(name: str, value: object, least: int, most: int = 2**63 - 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidType(name, value, "a whole number")
    if not least <= value <= most:
        limit = "below 2**63" if most == 2**63 - 1 else f"at most {most}"
        raise InvalidValue(name, value, f"must be at least {least} and {limit}")
