"""Projected gradient descent on a cascade as a whole: on what it answers, certificates and all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifix.attack.criteria import Criterion
from verifix.attack.projected_gradient import PGD
from verifix.bounds import Engine
from verifix.certify import Answers, Cascade
from verifix.certify.cascade import NONE
from verifix.graph import Graph
from verifix.sets import InputSet


@dataclass(frozen=True)
class CascadeAttack:
    """The points found for each input, and what the cascade says there.

    Attributes:
        success: whether both the input and its point get a certified answer, and these differ, ``(n,)``.
        examples: the points, ``(n, *shape)``; each lies in its set, decided in float64.
        answers: the cascade's answers for the points.
    """

    success: Tensor
    examples: Tensor
    answers: Answers


def attack_cascade(
    cascade: Cascade,
    x: Tensor,
    *,
    agreement: bool = True,
    steps: int = 40,
    step_size: float = 0.1,
    restarts: int = 1,
    seed: int = 0,
) -> CascadeAttack:
    """Look in the ball around each input for a point that the cascade gives another certified answer.

    Projected gradient descent (:class:`verifix.attack.PGD`) on the certificate itself: the adversary chooses the point,
    with it the stage, and maximises the certified margin of another class there; bounds are differentiated with respect
    to the center of the ball. Where the input has a certified answer, success would be a bug in verifix.

    Args:
        cascade: the cascade, with its ball.
        x: inputs ``(n, *shape)``, in raw units.
        agreement: attack algorithm 4; if false, the rule without its agreement test, by which the first stage that
            certifies its own prediction answers. Nothing protects that one.
        steps, restarts, seed: as in :class:`verifix.attack.PGD`.
        step_size: a fraction of the radius; steps fall to a tenth of it.

    Raises:
        InvalidValue, InvalidType: as :meth:`verifix.Cascade.predict`.
    """
    before = _certified(cascade.predict(x), agreement)
    graphs = cascade.graphs(x)

    def scores(points: Tensor) -> Tensor:
        """How far each class is certified at points, by the best stage that the rule lets answer."""
        around = cascade.around(points)
        best = points.new_full((len(points), graphs[0].shape[0]), -torch.inf)
        agreed = torch.full_like(best, torch.inf)
        for graph in graphs:
            best = torch.maximum(best, torch.minimum(agreed, _certified_margins(cascade, graph, around)))
            if agreement:
                agreed = torch.minimum(agreed, _margins(graph(points)))
        return best

    pgd = PGD(
        steps=steps, restarts=restarts, relative_step_size=step_size, final_step=0.1, start_from="both", loss="margin"
    )
    found = pgd(scores, x, _CertifiedOther(before.clamp(min=0)), cascade.around(x), seed=seed)
    answers = cascade.predict(found.examples)
    after = _certified(answers, agreement)
    inside = cascade.around(x).contains(found.examples)
    return CascadeAttack((before != NONE) & (after != NONE) & (after != before) & inside, found.examples, answers)


class _CertifiedOther(Criterion):
    """Another class than the label is certified: its margin is positive."""

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels

    def check(self, n: int, classes: int) -> None:
        """The cascade has made both."""

    def margins(self, logits: Tensor, index: Tensor) -> Tensor:
        return -logits.scatter(1, self.labels[index][:, None], -torch.inf).amax(1)

    def met(self, logits: Tensor, index: Tensor) -> Tensor:
        return self.margins(logits, index) < 0


def _certified(answers: Answers, agreement: bool) -> Tensor:
    """The certified answers, with the agreement test or without it."""
    return answers.labels if agreement else torch.where(answers.stages == NONE, NONE, answers.predictions)


def _certified_margins(cascade: Cascade, graph: Graph, around: InputSet) -> Tensor:
    """Lower bounds over each set of how far every class is ahead of all others, ``(n, classes)``; differentiable."""
    classes = graph.shape[0]
    pairs = torch.cartesian_prod(torch.arange(classes), torch.arange(classes))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    unit = torch.eye(classes).to(around.center)
    rows = (unit[pairs[:, 0]] - unit[pairs[:, 1]])[None]
    lowers = [
        Engine(graph, around, method, memory=cascade.memory, rounding=False).rows(graph.output, rows, upper=False)[0]
        for method in cascade.method
    ]
    return torch.stack(lowers).amax(0).reshape(len(around), classes, classes - 1).amin(2)


def _margins(logits: Tensor) -> Tensor:
    """How far every class is ahead of all others, ``(n, classes)``."""
    top, places = logits.topk(2, dim=1)
    other = torch.where(places[:, :1] == torch.arange(logits.shape[1], device=logits.device), top[:, 1:], top[:, :1])
    return logits - other
