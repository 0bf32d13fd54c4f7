"""What every attack is: an object without state that is called on a model, inputs and the sets around them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from verifix.attack.criteria import Criterion, criterion_of
from verifix.attack.problem import Classifier, Problem, evaluating
from verifix.attack.result import AttackResult, concatenate
from verifix.bounds.rounding import plain_arithmetic
from verifix.certify import Specification
from verifix.certify.certify import input_sets
from verifix.draws import Draws
from verifix.errors import InvalidType, InvalidValue
from verifix.sets import Ball, InputSet, Union, Wasserstein

BATCH = 500
"""How many inputs an attack works on at once, unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """An attack and its settings, all by name. Calling it changes nothing: neither it, nor the model.

    ``attack(model, x, y, inputs)`` looks in the set around each input for a point that the model answers wrongly.

    Parameters of the call:
        model: maps ``(n, *shape)`` to logits ``(n, classes)``, each input by itself; a module is in eval mode
            meanwhile, and every module of it is put back into its own mode. No gradients are left on parameters.
        x: inputs ``(n, *shape)``, float32 or float64, in raw units; refused where they lie outside a box.
        y: labels ``(n,)``; or a criterion (:class:`verifix.attack.Targeted`), or a specification
            (:class:`verifix.Rows`), whose violation is sought.
        inputs: a :class:`verifix.Ball` or another threat model, with one eps or one for each input; or the sets.
        seed: of everything random. What is drawn for an input depends on the seed and on its values only, so neither
            its batch nor its place there has an effect.
        stop: whether an input leaves the batch once the criterion is met; if not, the attack goes on to lower margins.
        batch: how many inputs are worked on at once.
        start: points of the sets, ``(n, *shape)``, where an attack with starts is to begin, first of all.

    Raises:
        InvalidValue, InvalidType: what is wrong with an argument, by name.
    """

    nearest: ClassVar[bool] = False
    """Whether it looks for the nearest wrong point and not for the most wrong one within reach."""

    def __call__(
        self,
        model: Classifier,
        x: Tensor,
        y: Tensor | Criterion | Specification,
        inputs: Ball | Wasserstein | Union | InputSet,
        *,
        seed: int = 0,
        stop: bool = True,
        batch: int = BATCH,
        start: Tensor | None = None,
    ) -> AttackResult:
        """Run the attack."""
        if not callable(model):
            raise InvalidType("model", model, "a module or function that returns logits (n, classes)")
        whole("batch", batch, 1)
        sets, criterion = input_sets(x, inputs), criterion_of(y)
        if not sets.finite():
            remedy = f"reaches beyond what {x.dtype} holds: give a smaller eps, or the box that inputs stay in"
            raise InvalidValue("inputs", sets, remedy)
        if start is not None and (not isinstance(start, Tensor) or start.shape != x.shape):
            raise InvalidValue("start", start, f"must be a tensor of the inputs' shape {tuple(x.shape)}")
        parts = []
        with torch.inference_mode(False), torch.no_grad(), evaluating(model), plain_arithmetic():
            criterion.check(len(x), _classes(model, x))
            draws = Draws(seed, x)
            self.check(sets)
            for part in torch.arange(len(x), device=x.device).split(batch) if len(x) else [x.new_zeros(0).long()]:
                problem = Problem(
                    model,
                    criterion,
                    sets.select(part),
                    numbers=part,
                    draws=draws.select(part),
                    nearest=self.nearest,
                    confidence=self.least_confidence(),
                    stop_on_success=stop and not self.nearest,
                    start=None if start is None else start[part].to(x),
                )
                if len(part):
                    self.run(problem)
                parts.append(problem.result())
        return parts[0] if len(parts) == 1 else concatenate(parts, sets)

    @abstractmethod
    def run(self, problem: Problem) -> None:
        """Ask the problem about points; it keeps the best."""

    def check(self, sets: InputSet) -> None:  # noqa: B027  (most attacks take any sets)
        """Refuse sets that the attack is not made for."""

    def least_confidence(self) -> float:
        """How far below zero the margin of a point has to be for the attack to settle for it."""
        return 0.0

    def settings(self) -> dict[str, Any]:
        """What a run folder records: the attack's name and all settings."""
        return {"attack": type(self).__name__, **{field.name: getattr(self, field.name) for field in fields(self)}}


def whole(name: str, value: object, least: int) -> None:
    """Refuse what is not a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidType(name, value, f"a whole number of at least {least}")
    if value < least:
        raise InvalidValue(name, value, f"must be at least {least}")


def real(name: str, value: object, least: float = 0.0, most: float = math.inf, *, above: bool = False) -> None:
    """Refuse what is not a finite number from ``least`` to ``most``; with ``above``, ``least`` itself too."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidType(name, value, "a number")
    if not (least < value if above else least <= value) or not value <= most or math.isinf(value):
        wanted = f"must be a number {'above' if above else 'of at least'} {least:g}"
        raise InvalidValue(name, value, wanted + (f" and at most {most:g}" if most < math.inf else ""))


def choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse what is not one of some words."""
    if value not in choices:
        raise InvalidValue(name, repr(value), f"choose one of {', '.join(choices)}")


def per_input(values: Tensor, like: Tensor) -> Tensor:
    """One number for each input, ``(k,)``, in a shape that broadcasts with ``like`` ``(k, *shape)``."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def _classes(model: Classifier, x: Tensor) -> int:
    """How many classes a model has; it is asked about one input."""
    with torch.no_grad():
        logits = model(x[:1].detach().clone() if len(x) else x.new_zeros(1, *x.shape[1:]))
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InvalidValue("model", f"output {shape}", "must return logits (n, classes)")
    return logits.shape[1]
