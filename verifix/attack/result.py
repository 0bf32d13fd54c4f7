"""What an attack found."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from verifix.sets import InputSet


@dataclass(frozen=True)
class AttackResult:
    """The best point found for each input, and what it cost.

    Attributes:
        success: whether the model, in eval mode, answers wrongly there, and the point lies in its set, ``(n,)``.
        examples: the points, ``(n, *shape)``. Where the attack succeeded, the one with the smallest margin that was
            seen, or for attacks of minimum norm the nearest to the input; elsewhere the most promising.
        margins: the criterion's margins there, ``(n,)``: for labels ``f_y - max_j f_j``; negative where it succeeded.
        feasible: whether each point lies in its set, decided in float64, ``(n,)``.
        forwards, backwards: how often the model was asked about each input, and for how many gradients, ``(n,)``.
        no_gradient: whether gradients were asked for, and every one was zero, ``(n,)``: the attack had nothing to go
            by, and its failure says nothing.
        not_finite: whether a logit or gradient was NaN or infinite anywhere, ``(n,)``; likewise.
        sets: where the examples had to lie.
    """

    success: Tensor
    examples: Tensor
    margins: Tensor
    feasible: Tensor
    forwards: Tensor
    backwards: Tensor
    no_gradient: Tensor
    not_finite: Tensor
    sets: InputSet

    @property
    def withstood(self) -> Tensor:
        """Whether the model withstood an attack that could see, ``(n,)``: neither success nor a broken gradient."""
        return ~(self.success | self.no_gradient | self.not_finite)

    @functools.cached_property
    def distance(self) -> Tensor:
        """How far each example is from its input in the units of the set's eps, ``(n,)`` float64."""
        return self.sets.distance(self.examples)


def concatenate(parts: list[AttackResult], sets: InputSet) -> AttackResult:
    """The result of attacks on consecutive parts of a batch."""
    names = ("success", "examples", "margins", "feasible", "forwards", "backwards", "no_gradient", "not_finite")
    columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return AttackResult(**columns, sets=sets)
