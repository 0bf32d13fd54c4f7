"""Cascades: a later network answers where the earlier ones hold no certificate (thesis, section 3.4.7, algorithm 4).

What a certificate of a cascade says, and why it holds, is proved in ``docs/cascades.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from verifix.bounds import MethodLike
from verifix.bounds.method import exact_methods
from verifix.certify.certify import certify, predict
from verifix.certify.specification import check_labels
from verifix.certify.verdict import Verdict
from verifix.errors import InvalidType, InvalidValue
from verifix.graph import Graph, capture
from verifix.sets import Ball, LpBall
from verifix.sets.base import check_points

NONE = -1
"""Stands for no label and for no stage."""


@dataclass(frozen=True)
class Answers:
    """What a cascade says of ``n`` inputs.

    Attributes:
        labels: the certified answer by algorithm 4, or -1 where the cascade abstains, ``(n,)``.
        stages: the deciding stage, the first that certifies its own prediction on the whole set, or -1 where none
            does, ``(n,)``. The cascade abstains too where an earlier stage predicts another class than this one.
        predictions: what the deciding stage predicts; the last stage, where none decides, ``(n,)``.
        margin: a lower bound, over the set, on the logit of that prediction minus any other logit of that stage,
            ``(n,)``.
    """

    labels: Tensor
    stages: Tensor
    predictions: Tensor
    margin: Tensor


@dataclass(frozen=True)
class CascadeResult(Answers):
    """The same, compared with the true labels.

    Attributes:
        verdicts: ``(n,)`` array of strings, each a :class:`verifix.Verdict`. ``verified``: no input of the set gets
            another certified answer than the label, and this input gets the label. ``falsified``: this input itself
            gets another one. ``unknown``: the cascade abstains.
    """

    verdicts: np.ndarray

    @property
    def verified(self) -> Tensor:
        """Which inputs are verified, ``(n,)`` boolean."""
        return torch.from_numpy(self.verdicts == Verdict.VERIFIED.value)


class Cascade:
    """Networks that answer one after the other, with abstentions; answers and certificates are for one ball.

    An input is handed to the first stage that certifies its own prediction on the ball around the input. That
    prediction is the answer if all earlier stages predict the same class there; else, and where no stage certifies,
    the cascade abstains. An answer ``y`` for ``x`` is a certificate: *whatever ``x'`` of the ball around ``x`` the
    cascade is given, it answers ``y`` or abstains* (``docs/cascades.md``).

    Args:
        stages: classifiers that return logits ``(n, classes)``, of the same inputs and classes, or their graphs.
        ball: the perturbations. The radius may differ between coordinates, not between inputs: two inputs must lie in
            each other's set, or in neither.
        method, memory: as in :func:`verifix.certify`; estimators must be exact.

    Raises:
        UnsupportedOperation: a stage holds an operation without a rule.
        InvalidValue, InvalidType: what is wrong with an argument, by name.

    >>> first, second = nn.Linear(1, 2), nn.Linear(1, 2)
    >>> with torch.no_grad():
    ...     for layer, weight, bias in ((first, 1.0, 0.0), (second, 0.0, -1.0)):
    ...         _ = layer.weight.copy_(torch.tensor([[0.0], [weight]])), layer.bias.copy_(torch.tensor([0.0, bias]))
    >>> cascade = Cascade([first, second], Ball("linf", eps=0.2))
    >>> answers = cascade.predict(torch.tensor([[0.5], [0.1], [-0.1]]))
    >>> answers.labels.tolist(), answers.stages.tolist()
    ([1, -1, 0], [0, 1, 1])
    """

    def __init__(
        self,
        stages: Sequence[nn.Module | Graph],
        ball: Ball,
        method: MethodLike = "cap",
        *,
        memory: int | None = None,
    ) -> None:
        if isinstance(stages, nn.Module | Graph) or not isinstance(stages, Sequence | nn.ModuleList):
            raise InvalidType("stages", stages, "a list of networks")
        if not stages:
            raise InvalidValue("stages", "an empty list", "a cascade has at least one stage")
        if not isinstance(ball, Ball):
            raise InvalidType("ball", ball, "a Ball: sets of another kind need not be symmetric")
        self.stages = list(stages)
        self.ball = ball
        # exact: answers are compared with certificates at inputs that an adversary chooses
        self.method = exact_methods(method)
        self.memory = memory
        self._graphs: list[Graph] = []

    def graphs(self, x: Tensor) -> list[Graph]:
        """The graphs of the stages, for inputs like ``x``; captured at the first call, with live parameters."""
        if not self._graphs:
            example = x[:2] if len(x) else x.new_zeros(1, *x.shape[1:])
            graphs = [stage if isinstance(stage, Graph) else capture(stage, example) for stage in self.stages]
            shapes = [graph.shape for graph in graphs]
            if len(set(shapes)) > 1 or len(shapes[0]) != 1:
                raise InvalidValue("stages", f"outputs of shapes {shapes}", "all must return logits (n, classes)")
            self._graphs = graphs
        return self._graphs

    def around(self, x: Tensor) -> LpBall:
        """The balls around inputs, such that ``x'`` is in the ball of ``x`` exactly if ``x`` is in that of ``x'``.

        Raises:
            InvalidValue: an input outside the box; a radius or a box for each input.
        """
        check_points("x", x)
        eps, box = self.ball.eps, self.ball.box
        _refuse_one_per_input("eps", eps, x, 1)
        if box is None:
            return self.ball.around(x)
        for side in box:
            _refuse_one_per_input("box", side, x, x.dim())
        # Inputs are held against the box as rounded to their dtype, so it must hold what it is rounded to.
        lower, upper = (torch.as_tensor(side, dtype=torch.float64) for side in box)
        rounded = (lower.to(x.dtype).double(), upper.to(x.dtype).double())
        return Ball(self.ball.norm, eps, (torch.minimum(lower, rounded[0]), torch.maximum(upper, rounded[1]))).around(x)

    def predict(self, x: Tensor) -> Answers:
        """The answers of algorithm 4 for inputs ``(n, *shape)`` in raw units; they hold in real arithmetic.

        Raises:
            InvalidValue, InvalidType: what is wrong with ``x``.
        """
        sets = self.around(x)
        graphs = self.graphs(x)
        labels, stages, predictions, first = (torch.full((len(x),), NONE, device=x.device) for _ in range(4))
        agreed = torch.ones(len(x), dtype=torch.bool, device=x.device)
        margin = x.new_full((len(x),), torch.nan)
        left = torch.arange(len(x), device=x.device)
        for number, graph in enumerate(graphs):
            own = predict(graph, x[left], self.memory)
            if number == 0:
                first = own.clone()
            result = certify(graph, x[left], own, sets.select(left), self.method, memory=self.memory)
            certified = result.verified.to(x.device)
            predictions[left], margin[left] = own, result.margin
            agreed[left] &= own == first[left]
            stages[left[certified]] = number
            decided = left[certified]
            decided = decided[agreed[decided]]
            labels[decided] = torch.where(
                self._proved(graphs[:number], x[decided], first[decided]), first[decided], NONE
            )
            left = left[~certified]
            if not len(left):
                break
        return Answers(labels, stages, predictions, margin)

    def certify(self, x: Tensor, y: Tensor) -> CascadeResult:
        """What the answers for ``x`` prove of inputs with labels ``y``, ``(n,)``."""
        answers = self.predict(x)
        y = check_labels(y, self.graphs(x)[0].shape[0]).to(x.device)
        if len(y) != len(x):
            raise InvalidValue("y", f"{len(y)} labels", f"must be as many as the {len(x)} inputs")
        answered = (answers.labels != NONE).cpu().numpy()
        right = (answers.labels == y).cpu().numpy()
        known = np.where(right, Verdict.VERIFIED.value, Verdict.FALSIFIED.value)
        verdicts = np.where(answered, known, Verdict.UNKNOWN.value)
        return CascadeResult(answers.labels, answers.stages, answers.predictions, answers.margin, verdicts)

    def _proved(self, graphs: Sequence[Graph], x: Tensor, labels: Tensor) -> Tensor:
        """Whether each of some stages predicts the label in real arithmetic: their logits may have been rounded."""
        proved = torch.ones(len(x), dtype=torch.bool, device=x.device)
        points = Ball("linf", 0.0)
        for graph in graphs if len(x) else []:
            proved &= certify(graph, x, labels, points, "ibp", memory=self.memory).verified.to(x.device)
        return proved


def _refuse_one_per_input(name: str, value: float | Tensor, x: Tensor, axes: int) -> None:
    """Refuse a tensor with a leading axis for the inputs, which it has from ``axes`` axes on."""
    if isinstance(value, Tensor) and value.dim() >= axes and (value.dim() < x.dim() or value.shape[0] != 1):
        shape = f"tensor of shape {tuple(value.shape)}"
        raise InvalidValue(name, shape, "a cascade needs the same for every input, or (1, ...) for coordinates")
