"""What an attack works on: queries to the model, which are counted, and the best point that was seen."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from verifix.attack.criteria import Criterion, Loss, looks_like_probabilities
from verifix.attack.result import AttackResult
from verifix.draws import Draws
from verifix.errors import InvalidValue
from verifix.sets import InputSet

Classifier = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Query:
    """What the model says of points ``(k, *shape)``.

    Attributes:
        margins: the criterion's margins, ``(k,)``.
        met: whether the criterion is met, ``(k,)``.
        loss: the loss that was asked for, to be maximised, ``(k,)``; else the negated margins.
        gradient: of the loss, ``(k, *shape)``, up to a positive factor for each input; where it is not finite, zero.
            None unless it was asked for.
        logits: ``(k, classes)``.
    """

    margins: Tensor
    met: Tensor
    loss: Tensor
    logits: Tensor
    gradient: Tensor | None = None

    @property
    def slope(self) -> Tensor:
        """The gradient, where one was asked for."""
        if self.gradient is None:
            raise InvalidValue("gradient", None, "ask Problem.gradient for it")
        return self.gradient


class Problem:
    """One attack on one batch. Inputs go by their numbers ``who``, ``(k,)`` int64, in ``0 .. n - 1``.

    Every point that the model is asked about is a candidate: the best is kept, so an attack need not keep any. The
    inputs themselves have been asked about when this is made.

    Args:
        model: maps ``(k, *shape)`` to logits ``(k, classes)``, each input by itself.
        criterion: for all inputs of the call.
        sets: where the points must lie, ``n`` of them; their centers are the inputs.
        numbers: the inputs' numbers in the criterion, ``(n,)``.
        draws: their random numbers.
        nearest: among points that meet the criterion, keep that nearest to the input, not that of the smallest margin.
        confidence: how far below zero a margin has to be for the search to count it as meeting the criterion; the
            inputs themselves need none.
        stop_on_success: whether an input is done once the criterion is met.
        start: points of the sets to start from, ``(n, *shape)``, where the caller has some.
    """

    def __init__(
        self,
        model: Classifier,
        criterion: Criterion,
        sets: InputSet,
        *,
        numbers: Tensor,
        draws: Draws,
        nearest: bool = False,
        confidence: float = 0.0,
        stop_on_success: bool = True,
        start: Tensor | None = None,
    ) -> None:
        self.model, self.criterion, self.sets, self.draws, self.start = model, criterion, sets, draws, start
        self.numbers, self.nearest, self.stop_on_success = numbers, nearest, stop_on_success
        self.confidence = 0.0
        self.x = sets.center.detach()
        n, device = len(sets), self.x.device
        self.forwards = torch.zeros(n, dtype=torch.int64, device=device)
        self.backwards = torch.zeros(n, dtype=torch.int64, device=device)
        self.success = torch.zeros(n, dtype=torch.bool, device=device)
        self._examples = self.x.clone()
        self._order = torch.full((n,), torch.inf, dtype=torch.float64, device=device)
        self._feasible = torch.ones(n, dtype=torch.bool, device=device)
        self._proved = False
        self._slopes_seen = torch.zeros(n, dtype=torch.bool, device=device)
        self._not_finite = torch.zeros(n, dtype=torch.bool, device=device)
        self.clean = self.ask(self.x, torch.arange(n, device=device))
        self.confidence = confidence
        if looks_like_probabilities(self.clean.logits):
            warnings.warn(
                "model: its outputs are probabilities, not logits: they are flat where the model is sure, and attacks "
                "look weaker than they are; leave out the softmax at the end",
                stacklevel=4,
            )

    def __len__(self) -> int:
        return len(self.sets)

    def open(self, who: Tensor | None = None) -> Tensor:
        """The numbers of those inputs (all, by default) that are not done, ``(k,)``."""
        who = torch.arange(len(self), device=self.x.device) if who is None else who
        return who[~self.success[who]] if self.stop_on_success else who

    def ask(self, points: Tensor, who: Tensor, *, feasible: Tensor | None = None) -> Query:
        """Ask about points of some inputs, without gradients.

        Args:
            feasible: ``(k,)``, whether the points lie in their sets, from an attack that has proofs; with them the sets
                are not asked. Points that do not are never kept.
        """
        with torch.no_grad():
            logits = self._run(points.detach(), who)
            query = self._query(logits, who, None)
        return self._keep(points.detach(), who, query, feasible)

    def gradient(
        self,
        points: Tensor,
        who: Tensor,
        loss: Loss = "cross-entropy",
        *,
        feasible: Tensor | None = None,
        plain: bool = False,
    ) -> Query:
        """Ask about points of some inputs, and for the direction of the gradient of a loss with respect to them.

        The loss is computed in float64 and from the log-odds, and of each gradient only the direction is returned, at a
        scale at which nothing underflows: the usual cross-entropy of a confident network leaves the label's part out,
        and steps along what remains are far weaker (``docs/attacks.md``). ``plain`` computes it like everybody else.
        """
        leaf = points.detach().clone().requires_grad_(True)  # inference tensors cannot
        with torch.enable_grad():
            logits = self._run(leaf, who)
            answers = (logits if plain else logits.double()).detach().requires_grad_(True)
            value = self.criterion.loss(loss, answers, self.numbers[who], plain=plain)
            (pull,) = torch.autograd.grad(value.sum(), answers)
            if not plain:
                largest = pull.abs().amax(1, keepdim=True)
                pull = pull / torch.where(largest > 0, largest, 1.0)
            slope = self._differentiate(logits, leaf, who, pull.to(logits.dtype))
        query = self._query(logits.detach(), who, value.detach(), slope)
        return self._keep(leaf.detach(), who, query, feasible)

    def differentiate(self, points: Tensor, who: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Query:
        """The same for a loss of the attack's own, ``loss(logits, points) -> (k,)``, to be maximised."""
        leaf = points.detach().clone().requires_grad_(True)  # inference tensors cannot
        with torch.enable_grad():
            logits = self._run(leaf, who)
            value = loss(logits, leaf)
            slope = self._differentiate(value, leaf, who, torch.ones_like(value))
        query = self._query(logits.detach(), who, value.detach(), slope)
        return self._keep(leaf.detach(), who, query, None)

    def jacobian(self, points: Tensor, who: Tensor, forms: Callable[[Tensor], Tensor]) -> tuple[Query, Tensor, Tensor]:
        """The same for several functions of the logits, ``forms(logits) -> (k, r)``, with one pass backwards for each.

        Returns the query, the values ``(k, r)`` and their gradients ``(k, r, *shape)``.
        """
        leaf = points.detach().clone().requires_grad_(True)  # inference tensors cannot
        with torch.enable_grad():
            logits = self._run(leaf, who)
            values = forms(logits)
            ones = torch.ones_like(values[:, 0])
            slopes = [self._differentiate(value, leaf, who, ones, retain=True) for value in values.unbind(1)]
        query = self._query(logits.detach(), who, None)
        return self._keep(leaf.detach(), who, query, None), values.detach(), torch.stack(slopes, 1)

    def settle(self, points: Tensor, who: Tensor) -> None:
        """Ask about points that are what the attack returns, whatever else was seen: those of one-step attacks."""
        query = self.ask(points, who)
        self._examples[who], self.success[who] = points.detach().to(self._examples.dtype), query.met

    def part(self, who: Tensor, sets: InputSet, *, nearest: bool = False) -> Problem:
        """The same problem for some of the inputs, in sets of their own, ``(k,)``: one that another attack can run on,
        for :meth:`absorb`. Its random numbers are the same."""
        return Problem(
            self.model,
            self.criterion,
            sets,
            numbers=self.numbers[who],
            draws=self.draws.select(who),
            nearest=nearest,
            stop_on_success=self.stop_on_success and not nearest,
            start=None if self.start is None else self.start[who],
        )

    def absorb(self, part: Problem, who: Tensor) -> Tensor:
        """Take over what a part has cost and seen, and ask about its best points, ``(k, *shape)``, which it returns.

        Attacks of minimum norm end where a point is wrong, in the set or not: the inputs stand for those outside, which
        would end the search without being a success.
        """
        for mine, its in ((self.forwards, part.forwards), (self.backwards, part.backwards)):
            mine.index_add_(0, who, its)
        self._slopes_seen[who] |= part._slopes_seen
        self._not_finite[who] |= part._not_finite
        points = part.best(torch.arange(len(part), device=who.device))
        if part.nearest:
            inside = part.sets.contains(points)
            points = torch.where(inside.reshape(-1, *[1] * (points.dim() - 1)), points, self.x[who])
        self.ask(points, who)
        return points

    def best(self, who: Tensor) -> Tensor:
        """The best points so far, ``(k, *shape)``."""
        return self._examples[who]

    def result(self) -> AttackResult:
        """The best points, asked about once more: what is returned is what the model says of the very points."""
        with torch.no_grad():
            logits = self._run(self._examples, torch.arange(len(self), device=self.x.device))
        margins, met = self.criterion.margins(logits, self.numbers), self.criterion.met(logits, self.numbers)
        feasible = self._feasible if self._proved else self.sets.contains(self._examples)
        no_gradient = (self.backwards > 0) & ~self._slopes_seen
        return AttackResult(
            met & feasible, self._examples, margins, feasible, self.forwards, self.backwards, no_gradient,
            self._not_finite, self.sets,
        )  # fmt: skip

    def _run(self, points: Tensor, who: Tensor) -> Tensor:
        self.forwards.index_add_(0, who, torch.ones_like(who))
        logits = self.model(points.clone())  # models may write into what they are given
        if logits.dim() != 2 or len(logits) != len(points):
            shape = f"answers of shape {tuple(logits.shape)} for {len(points)} inputs"
            raise InvalidValue("model", shape, "must return logits (n, classes)")
        # losses of half precision overflow
        logits = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
        self._not_finite[who] |= ~torch.isfinite(logits.detach()).all(1)
        return logits

    def _differentiate(self, value: Tensor, leaf: Tensor, who: Tensor, pull: Tensor, retain: bool = False) -> Tensor:
        self.backwards.index_add_(0, who, torch.ones_like(who))
        slope: Tensor | None = None
        if value.requires_grad:
            (slope,) = torch.autograd.grad(value, leaf, pull, retain_graph=retain, allow_unused=True)
        if slope is None:  # the model's answer does not depend on its input, or it cuts the graph
            return torch.zeros_like(leaf)
        finite = torch.isfinite(slope)
        self._not_finite[who] |= ~finite.flatten(1).all(1)
        slope = torch.where(finite, slope, 0)
        self._slopes_seen[who] |= (slope != 0).flatten(1).any(1)
        return slope

    def _query(self, logits: Tensor, who: Tensor, loss: Tensor | None, gradient: Tensor | None = None) -> Query:
        numbers = self.numbers[who]
        margins, met = self.criterion.margins(logits, numbers), self.criterion.met(logits, numbers)
        if self.confidence:
            met = met & (margins <= -self.confidence)
        return Query(margins, met, -margins if loss is None else loss, logits, gradient)

    def _keep(self, points: Tensor, who: Tensor, query: Query, feasible: Tensor | None) -> Query:
        order = query.margins.double()
        if self.nearest:
            order = torch.where(query.met, self.sets.select(who).distance(points), order)
        before = self.success[who]
        better = torch.where(query.met == before, order < self._order[who], query.met & ~before)
        better |= torch.isinf(self._order[who]) & torch.isfinite(order) & (query.met >= before)
        if feasible is not None:
            self._proved = True
            better &= feasible
        kept = who[better]
        self._examples[kept] = points[better].to(self._examples.dtype)
        self._order[kept] = order[better]
        self.success[kept] = query.met[better]
        return query


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Put a module into eval mode, and afterwards each of its modules back into the mode it was in."""
    flags = [(module, module.training) for module in model.modules()] if isinstance(model, nn.Module) else []
    try:
        if isinstance(model, nn.Module):
            model.eval()
        yield
    finally:
        for module, training in flags:
            module.training = training
