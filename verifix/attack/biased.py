"""An attack on locally biased classifiers that knows the oracle."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifix.attack.projected_gradient import PGD
from verifix.attack.steps import random_start
from verifix.draws import Draws
from verifix.errors import InvalidType, InvalidValue
from verifix.sets import Ball, LpBall
from verifix.sets.base import check_points
from verifix.smooth.biased import BiasedDifferentiable, BiasedLinear, BiasedLogits, NearestNeighbour

Biased = BiasedLinear | BiasedDifferentiable | BiasedLogits
OVERSHOOT = 1.001
"""How far beyond the border of a Voronoi cell a start is placed, as a multiple of the way to it."""


@dataclass(frozen=True)
class BiasedAttack:
    """The points found for each input.

    Attributes:
        success: whether the smoothed classifier, evaluated in float64, gives the point another class than the label;
            ``(n,)``.
        examples: the points, ``(n, *shape)`` float64; each lies in its ball.
        predictions: what the smoothed classifier says there, ``(n,)``: -1 or 1, or classes.
    """

    success: Tensor
    examples: Tensor
    predictions: Tensor


def attack_biased(
    classifier: Biased,
    x: Tensor,
    y: Tensor | None = None,
    *,
    inputs: Ball,
    steps: int = 40,
    step_size: float = 0.1,
    restarts: int = 1,
    neighbours: int = 5,
    seed: int = 0,
) -> BiasedAttack:
    """Look in the ball around each input for a point that the smoothed classifier gives another class.

    The oracle is constant on pieces, the Voronoi cells of the reserved points, and plain descent does not know that
    others are near. So projected gradient descent (:class:`verifix.attack.PGD`) on the smoothed classifier starts from
    the input; from random points; and, for each of the nearest opposing points, from just beyond the border of its
    cell, where a step in the ball's own norm reaches it soonest, and from the point itself, projected into the ball.
    It goes from each start once by the gradient of the current piece, and once by one that sees the pieces: the label
    counts as that of weights ``softmax(-D / t)``, with ``D`` the squared distances and t the gap between the nearest
    two, for the gradient alone; values stay exact.

    Of all points the one with the smallest margin is kept. Certificates that hold are never broken, see
    :meth:`BiasedLinear.certify` and its like.

    Args:
        classifier: what is attacked.
        x: inputs ``(n, *shape)``, in raw units.
        y: labels ``(n,)``: -1 and 1, or classes; by default the smoothed classifier's own predictions.
        inputs: the ball to put around each input, of any norm and with its box.
        steps, step_size: as in :class:`verifix.attack.PGD`; steps are fractions of the radius and fall to a tenth.
        restarts: so many starts, the input and random points.
        seed: of these.
        neighbours: so many opposing points of each input are tried, two starts for each.

    Raises:
        InvalidValue, InvalidType: what is wrong with an argument, by name.

    >>> oracle = NearestNeighbour(torch.tensor([[-1.0], [1.0]]), torch.tensor([-1, 1]))
    >>> found = attack_biased(
    ...     BiasedLinear(torch.tensor([1.0]), 0.0, oracle, alpha=5.0), torch.tensor([[0.5]]), inputs=Ball("l2", 0.75)
    ... )
    >>> found.success.tolist(), bool(found.examples < 0)
    ([True], True)
    """
    if not isinstance(inputs, Ball):
        raise InvalidType("inputs", inputs, "a Ball")
    if isinstance(neighbours, bool) or not isinstance(neighbours, int) or neighbours < 0:
        raise InvalidValue("neighbours", neighbours, "must be a whole number of at least 0")
    model = _Scores(classifier)
    exact = check_points("x", x).detach().double()
    sets = inputs.around(exact)
    labels = model.classes(exact) if y is None else model.places(y, len(x))
    if restarts < 1:
        raise InvalidValue("restarts", restarts, "must be at least 1")
    draws, who = Draws(seed, exact), torch.arange(len(x), device=x.device)
    starts = [exact, *(random_start(sets, draws, who, sample=sample) for sample in range(1, restarts))]
    starts += _starts(classifier.oracle, exact, sets, neighbours)
    each = torch.arange(len(x), device=x.device).repeat(len(starts))
    many, together = sets.select(each), torch.cat(starts)
    pgd = PGD(steps=steps, relative_step_size=step_size, final_step=0.1, loss="margin")
    found = [exact]
    for scores in (model, _Scores(classifier, smooth=True)):
        ends = pgd(scores, exact[each], labels[each], many, start=together, stop=False).examples
        found.extend(ends.split(len(x)))
    margins = torch.stack([_margins(model(points).detach(), labels) for points in found])
    margins = torch.where(torch.stack([sets.contains(points) for points in found]), margins, torch.inf)
    best = torch.stack(found)[margins.argmin(0), torch.arange(len(x), device=x.device)]
    answers = model.classes(best)
    return BiasedAttack((answers != labels) & sets.contains(best), best, model.answers(answers))


class _Scores:
    """The smoothed classifier as logits ``(n, classes)`` in float64; with ``smooth``, gradients see other pieces."""

    def __init__(self, classifier: Biased, smooth: bool = False) -> None:
        if not isinstance(classifier, (BiasedLinear, BiasedDifferentiable, BiasedLogits)):
            raise InvalidType("classifier", classifier, "a BiasedLinear, a BiasedDifferentiable or a BiasedLogits")
        self.classifier, self.smooth = classifier, smooth
        self.binary = not isinstance(classifier, BiasedLogits)

    def __call__(self, x: Tensor) -> Tensor:
        bias = self._bias if self.smooth else None
        if isinstance(self.classifier, BiasedLogits):
            return self.classifier.logits(x, bias)
        decision = self.classifier.decision(x, bias)
        return torch.stack([torch.zeros_like(decision), decision], 1)

    @torch.no_grad()
    def classes(self, x: Tensor) -> Tensor:
        """What the smoothed classifier says, as columns of the logits; a decision of exactly zero is positive."""
        if isinstance(self.classifier, BiasedLogits):
            return self.classifier.logits(x).argmax(1)
        return (self.classifier.predict(x) > 0).long()

    def _bias(self, x: Tensor) -> Tensor:
        """The labels of the oracle as numbers ``(n,)`` or ``(n, classes)``, exact, with gradients of a soft vote."""
        oracle = self.classifier.oracle
        squares = oracle.distances(x).square()
        sorted_ = squares.detach().topk(min(2, len(oracle)), dim=1, largest=False).values
        scale = (sorted_[:, -1:] - sorted_[:, :1]).clamp(min=1e-12 * (1 + sorted_[:, :1]))
        votes = torch.softmax(-squares / scale, 1)
        if self.binary:
            values = oracle.labels.to(votes)
        else:
            values = torch.nn.functional.one_hot(oracle.labels, self._classes(x)).to(votes)
        soft, hard = votes @ values, values[squares.detach().argmin(1)]
        return hard + (soft - soft.detach())

    def _classes(self, x: Tensor) -> int:
        with torch.no_grad():
            return self.classifier.logits(x[:1]).shape[1] if isinstance(self.classifier, BiasedLogits) else 2

    def places(self, y: Tensor, n: int) -> Tensor:
        """Labels as columns of the logits."""
        if not isinstance(y, Tensor):
            raise InvalidType("y", y, "a torch.Tensor of labels (n,)")
        if y.shape != (n,):
            raise InvalidValue("y", f"tensor of shape {tuple(y.shape)}", f"must be ({n},), one label for each input")
        if not self.binary:
            return y.long()
        if bool((y.abs() != 1).any()):
            raise InvalidValue("y", f"label {y[y.abs() != 1][0].item()}", "a binary classifier has labels -1 and 1")
        return (y > 0).long()

    def answers(self, places: Tensor) -> Tensor:
        """And back."""
        return 2 * places - 1 if self.binary else places


def _margins(logits: Tensor, labels: Tensor) -> Tensor:
    own = logits.gather(1, labels[:, None])
    return (own[:, 0] - logits.scatter(1, labels[:, None], -torch.inf).amax(1)).nan_to_num(nan=torch.inf)


def _starts(oracle: NearestNeighbour, x: Tensor, sets: LpBall, count: int) -> list[Tensor]:
    """Points of the balls in, or towards, the cells of opposing points: for each of the nearest, two."""
    rows = oracle.flat(x)
    distances = oracle.distances(x)
    nearest = distances.argmin(1)
    opposing = oracle.labels != oracle.labels[nearest][:, None]
    far = torch.where(opposing, distances, torch.inf)
    count = min(count, int(opposing.sum(1).max()) if len(x) else 0)
    starts = []
    for j in far.topk(count, dim=1, largest=False).indices.T:
        other, own = oracle.points[j], oracle.points[nearest]
        gap = other - own
        difference = -(gap * ((rows - own) + (rows - other))).sum(1)  # D_j - D_i
        step, size = _steepest(gap, sets.norm)
        length = OVERSHOOT * difference / (2 * size.clamp(min=1e-300))
        usable = opposing.gather(1, j[:, None])  # some inputs have fewer opposing points than others
        for target in (rows + length[:, None] * step, other):
            point = torch.where(usable & torch.isfinite(target), target, rows)
            starts.append(sets.project(point.reshape(x.shape)))
    return starts


def _steepest(gap: Tensor, norm: str) -> tuple[Tensor, Tensor]:
    """Of each row the step of norm 1 with the largest product with it, and that product, its dual norm."""
    if norm == "linf":
        return gap.sign(), gap.abs().sum(1)
    if norm == "l2":
        size = torch.linalg.vector_norm(gap, dim=1)
        return gap / size.clamp(min=1e-300)[:, None], size
    size, place = gap.abs().max(1)
    return torch.zeros_like(gap).scatter(1, place[:, None], gap.gather(1, place[:, None]).sign()), size
