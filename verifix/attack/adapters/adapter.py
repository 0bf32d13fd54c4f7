"""What the adapters share: the library runs, and its points are asked about like anybody else's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from verifix.attack.base import Attack
from verifix.attack.criteria import Criterion, Targeted, Untargeted
from verifix.attack.nearest import box_sides, into_box, lp_sets
from verifix.attack.problem import Classifier, Problem
from verifix.errors import InvalidType, InvalidValue
from verifix.sets import InputSet, LpBall
from verifix.sets.ball import NORMS


@dataclass(frozen=True)
class Task:
    """What a library is given: a model of images in [0, 1], images, and the classes to leave or to reach."""

    model: nn.Module
    x: Tensor
    classes: Tensor
    targeted: bool
    norm: str
    eps: Tensor
    """``(k,)`` float64, in the units of the images in [0, 1]."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class Adapter(Attack):
    """An attack of another library.

    Its points are brought into the box (and into the ball, for attacks that work at a given eps), and then asked about:
    success and feasibility are decided as for all attacks, not by the library. Inputs of any box of numbers are handed
    over as images in [0, 1]. What cannot be had from outside: what the library asks is not counted in ``forwards`` and
    ``backwards`` (nor seen by ``no_gradient`` and ``not_finite``), and its random numbers depend on the whole batch.
    """

    def check(self, sets: InputSet) -> None:
        name = type(self).__name__
        ball = lp_sets(name, sets, NORMS)
        if ball.eps.shape[1:].numel() != 1:
            raise InvalidValue("inputs", sets, f"{name} knows no radii per coordinate: give a number or one per input")
        _box(name, ball)

    def run(self, problem: Problem) -> None:
        name = type(self).__name__
        classes, targeted = _aim(name, problem.criterion)
        who = (~problem.clean.met).nonzero()[:, 0]
        if not len(who):
            return
        sets = lp_sets(name, problem.sets, NORMS).select(who)
        low, high = _box(name, sets)
        x = sets.center.detach()
        task = Task(
            _Scaled(problem.model, low, high - low).to(x.device),
            ((x - low) / (high - low)).clamp(0, 1),
            classes[problem.numbers[who]],
            targeted,
            sets.norm,
            sets.eps.expand(len(sets), *sets.eps.shape[1:]).reshape(-1) / (high - low),
            problem.draws.seed,
        )
        devices = [x.device] if x.device.type == "cuda" else []
        with torch.enable_grad(), _frozen(problem.model), torch.random.fork_rng(devices):
            torch.manual_seed(task.seed)
            found = self.perturb(task).detach()
        points = (low + (high - low) * found).to(x.dtype)
        points = torch.where(torch.isfinite(points), points, x)
        problem.ask(into_box(points, box_sides(sets)) if self.nearest else sets.project(points), who)

    @abstractmethod
    def perturb(self, task: Task) -> Tensor:
        """The points that the library finds, ``(k, *shape)``, in [0, 1]."""


def package(name: str, pip: str) -> Any:
    """A module of a library that may not be there.

    Raises:
        InvalidValue: it is not; the message says how to install it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise InvalidValue("attack", name, f"is not installed ({error}): pip install {pip}") from error


def check_named(name: str, value: object, options: object) -> None:
    """Refuse what cannot be the name of something in a library, or its settings."""
    if not isinstance(value, str):
        raise InvalidType(name, value, "a name")
    if not isinstance(options, Mapping):
        raise InvalidType("options", options, "a dict of the attack's own settings")


def named(library: Any, name: str, kind: str) -> Any:
    """Something in a library by its name."""
    found = None if name.startswith("_") else getattr(library, name, None)
    if not callable(found):
        raise InvalidValue(kind, name, f"there is nothing of this name in {library.__name__}")
    return found


def single_eps(name: str, task: Task) -> float:
    """The eps that all inputs share, for libraries that know no other."""
    if bool((task.eps != task.eps[0]).any()):
        raise InvalidValue("eps", "one for each input", f"{name} works at a single eps: give a number")
    return float(task.eps[0])


class _Scaled(nn.Module):
    """The model, for images in [0, 1]."""

    def __init__(self, model: Classifier, low: float, width: float) -> None:
        super().__init__()
        self.model, self.low, self.width = model, low, width
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(self.low + self.width * x)


@contextmanager
def _frozen(model: object) -> Iterator[None]:
    """No gradients for parameters meanwhile: libraries call ``backward``."""
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    flags = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in zip(parameters, flags, strict=True):
            parameter.requires_grad_(flag)


def _aim(name: str, criterion: Criterion) -> tuple[Tensor, bool]:
    if isinstance(criterion, Targeted):
        return criterion.targets, True
    if isinstance(criterion, Untargeted):
        return criterion.labels, False
    raise InvalidValue("y", type(criterion).__name__, f"{name} takes labels, or Targeted")


def _box(name: str, sets: LpBall) -> tuple[float, float]:
    """The two numbers that are the sides of the box everywhere."""
    if sets.box is None:
        raise InvalidValue("inputs", sets, f"{name} works in a box: give the Ball one, such as (0, 1)")
    low, high = (side.flatten() for side in sets.box)
    if not len(low):
        return 0.0, 1.0
    if bool((low != low[0]).any() or (high != high[0]).any()) or not float(low[0]) < float(high[0]):
        raise InvalidValue("inputs", sets, f"{name} needs the same box, of some width, for every coordinate")
    return float(low[0]), float(high[0])
