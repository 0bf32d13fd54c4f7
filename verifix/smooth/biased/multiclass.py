"""Locally biased smoothing of any classifier: a constant is added to the logit that the oracle names.

``G_k(x) = g_k(x) + alpha c [k = y(x)]``, with ``y(x)`` the label of the nearest reserved point: the gradient's norm of
the paper's equation 5 is replaced by a constant c, so that ReLU networks are no exception and two classes are only a
case. Within the oracle's radius the bias is constant, and a bound of a margin of ``g`` plus the difference of two known
numbers is a bound of a margin of ``G``: verifix's own engine certifies it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from verifix.bounds import MethodLike
from verifix.bounds.method import exact_methods
from verifix.bounds.rounding import plain_arithmetic
from verifix.bounds.tiles import budget
from verifix.certify import Margins, Radii, Rows, Verdict, certify
from verifix.certify.certify import classifier, logits_at_test_time
from verifix.certify.radius import (
    TOLERANCE,
    check_tolerance,
    clean_margins,
    largest_eps,
    search_radii,
    smallest_margins,
)
from verifix.errors import InvalidType, InvalidValue
from verifix.graph import Graph
from verifix.sets import Ball, LpBall
from verifix.sets.base import Norm, check_points
from verifix.smooth.biased.oracle import NearestNeighbour, Neighbours, Oracle
from verifix.smooth.biased.radii import check_number


@dataclass(frozen=True)
class BiasedVerdicts:
    """What :meth:`BiasedLogits.certify` found, input by input.

    Attributes:
        verdicts: ``(n,)`` array of strings, each a :class:`verifix.Verdict`.
        margins: lower bounds over the set of ``G_y - G_j``, ``(n, classes)``, infinite at ``j = y``.
        predictions: the class that the biased classifier gives the input, ``(n,)``.
        oracle: the oracle's label of the input, ``(n,)``.
        neighbour: within it the oracle keeps its label, ``(n,)``; beyond it margins are those under the worst label.
    """

    verdicts: np.ndarray
    margins: Tensor
    predictions: Tensor
    oracle: Tensor
    neighbour: Tensor


class BiasedLogits:
    """A classifier whose logit of the nearest reserved point's class is raised by ``alpha * c``.

    Args:
        model: a classifier that returns logits ``(n, classes)``, or its graph (:func:`verifix.capture`).
        oracle: reserved points, labelled with classes.
        alpha, c: at least 0; their product, as float64 computes it, is what is added.

    Raises:
        InvalidValue, InvalidType: what is wrong with an argument, by name.

    >>> model = nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = model.weight.copy_(torch.eye(2)), model.bias.zero_()
    >>> oracle = NearestNeighbour(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]))
    >>> biased = BiasedLogits(model, oracle, alpha=1.0, c=0.5)
    >>> x = torch.tensor([[2.0, 0.0], [1.0, 0.75]])
    >>> biased.predict(x).tolist(), biased.certify(x, torch.tensor([0, 0]), Ball("linf", 0.25)).verdicts.tolist()
    ([0, 0], ['verified', 'unknown'])
    >>> biased.radius(x, norm="linf", method="ibp").radii
    tensor([1.0000, 0.1250], dtype=torch.float64)
    """

    def __init__(self, model: nn.Module | Graph, oracle: NearestNeighbour, *, alpha: float, c: float = 1.0) -> None:
        if not isinstance(model, (nn.Module, Graph)):
            raise InvalidType("model", model, "a torch.nn.Module or a verifix Graph")
        if not isinstance(oracle, NearestNeighbour):
            raise InvalidType("oracle", oracle, "a NearestNeighbour")
        self.model, self.oracle = model, oracle
        self._captured: Graph | None = None
        self.bias = check_number("alpha", alpha) * check_number("c", c)
        check_number("alpha * c", self.bias)
        if bool((oracle.labels < 0).any()):
            raise InvalidValue("oracle", f"label {int(oracle.labels.min())}", "labels must be classes, from 0")

    def logits(self, x: Tensor, boosted: Oracle | None = None) -> Tensor:
        """``G(x)``, ``(n, classes)`` float64; the network itself is run in the type of ``x``; differentiable.

        Args:
            x: inputs ``(n, *shape)``.
            boosted: stands in for the oracle, for attacks that need a gradient of it: how much of the bias each class
                gets, ``(n, classes)``.
        """
        logits = self._graph(x)(x)
        share = self._boosted(self.oracle(x), logits.shape[1]) if boosted is None else boosted(x)
        return logits.double() + self.bias * share

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """The class of each input, ``(n,)``; of equal logits the first one's."""
        self._require_dtype(x)
        graph = self._graph(x)
        logits = logits_at_test_time(graph, x, budget(graph, [x.dtype], x.device)).double()
        return self._predictions(logits, self.oracle(x))

    def certify(
        self, x: Tensor, y: Tensor, inputs: Ball, method: MethodLike = "crown", *, memory: int | None = None
    ) -> BiasedVerdicts:
        """Prove, for each input, that no point of its ball changes the answer (M1 of ``docs/biased-smoothing.md``).

        Where the ball is within the oracle's radius, ``lb(g_y - g_k) + alpha c ([y = y(x)] - [k = y(x)]) > 0`` has to
        hold for all k; else the same for every label the oracle can give. Bounds are those of :func:`verifix.certify`.

        Args:
            x: inputs ``(n, *shape)``, in raw units.
            y: labels ``(n,)``.
            inputs: the ball to put around each input, of one radius, or one for each input.
            method, memory: as in :func:`verifix.certify`; no estimator that may fail.

        Raises:
            InvalidValue, InvalidType: what is wrong with an argument, by name.
        """
        exact_methods(method)
        self._require_dtype(x)
        if not isinstance(inputs, Ball):
            raise InvalidType("inputs", inputs, "a Ball")
        graph = self._graph(x)
        margins = Margins(y, graph.shape[0])
        margins.check(len(x), graph.shape[0])
        balls, found = inputs.around(x), self.oracle.neighbours(x, inputs.norm)
        index = torch.arange(len(x), device=x.device)
        offsets = self._offsets(margins, found, _eps(balls), index)
        specification = Rows(margins.rows(slice(None), x), offsets)
        result = certify(graph, x, specification, balls, method, memory=memory)
        with torch.no_grad(), plain_arithmetic():
            logits = logits_at_test_time(graph, x, budget(graph, [x.dtype], x.device, memory)).double()
        predictions = self._predictions(logits, found.labels)
        # not the result's own: its violations are of the worst label, which the input itself need not have
        finite = torch.isfinite(logits).all(1)
        proved = (result.margins > 0).all(1) & finite
        wrong = (predictions != margins.labels.to(predictions.device)) & finite & ~proved
        verdicts = np.full(len(x), Verdict.UNKNOWN.value, dtype="<U9")
        verdicts[proved.cpu().numpy()] = Verdict.VERIFIED.value
        verdicts[wrong.cpu().numpy()] = Verdict.FALSIFIED.value
        return BiasedVerdicts(
            verdicts, margins.spread(result.margins, slice(None)), predictions, found.labels, found.radii
        )

    def radius(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        norm: Norm = "linf",
        box: tuple[float | Tensor, float | Tensor] | None = None,
        method: MethodLike = "crown",
        max_eps: float | None = None,
        tolerance: float = TOLERANCE,
        memory: int | None = None,
    ) -> Radii:
        """The largest radius at which each input is certified, by the search of :func:`verifix.radius`.

        Args, the result and errors are as there; ``y`` is by default the biased classifier's own prediction.
        """
        methods = exact_methods(method)
        self._require_dtype(x)
        balls = Ball(norm, 0.0, box).around(check_points("x", x).detach())
        most = largest_eps(balls, max_eps)
        check_tolerance(tolerance)
        graph = self._graph(x)
        found = self.oracle.neighbours(x, balls.norm)
        with torch.no_grad(), plain_arithmetic():
            within = budget(graph, sorted({x.dtype, torch.float64}, key=str), x.device, memory)
            logits = logits_at_test_time(graph, x, within).double()
            predictions = self._predictions(logits, found.labels)
            specification = Margins(predictions if y is None else y, graph.shape[0])
            specification.check(len(x), graph.shape[0])
            points = balls.to(torch.float64)

            def margin(inputs: Tensor, eps: Tensor) -> Tensor:
                index = inputs.to(x.device)
                sets, rows = points.select(index).with_eps(eps), specification.rows(index, points.center)
                chosen = Rows(rows, self._offsets(specification, found, eps.to(x.device), index))
                return smallest_margins(graph, sets, chosen, methods, within, torch.arange(len(inputs)))

            labels = specification.labels.to(predictions.device)
            biased = logits + self.bias * self._boosted(found.labels, logits.shape[1])
            clean = clean_margins(biased, labels)
            return search_radii(margin, clean, most, predictions == labels, predictions, tolerance)

    def _offsets(self, margins: Margins, found: Neighbours, eps: Tensor, index: Tensor) -> Tensor:
        """What the bias adds to the margins of some inputs at these radii, at least: ``(n, classes - 1)`` float64."""
        device = found.labels.device
        own = margins.labels.to(device)[index][:, None]
        others, label = margins.others.to(device)[index], found.labels[index][:, None]
        certain = ((found.radii[index] > 0) & (eps <= found.radii[index]))[:, None]
        settled = (own == label).double() - (others == label).double()
        worst = -torch.isin(others, self.oracle.labels).double()
        return self.bias * torch.where(certain, settled, worst)

    def _predictions(self, logits: Tensor, labels: Tensor) -> Tensor:
        return (logits + self.bias * self._boosted(labels, logits.shape[1])).argmax(1)

    def _boosted(self, labels: Tensor, classes: int) -> Tensor:
        return nn.functional.one_hot(labels, classes).double()

    def _graph(self, x: Tensor) -> Graph:
        """The graph of the model, if its classes and inputs fit the oracle's."""
        self.oracle.flat(check_points("x", x))
        if self._captured is None:
            self._captured = classifier(self.model, x.detach().to(self._dtype(x)))
        classes = self._captured.shape[0]
        if int(self.oracle.labels.max()) >= classes:
            label = f"label {int(self.oracle.labels.max())}"
            raise InvalidValue("oracle", label, f"the network has {classes} classes, from 0")
        return self._captured

    def _dtype(self, x: Tensor) -> torch.dtype:
        """The type of the model's weights; that of the inputs where it has none."""
        weights = [] if isinstance(self.model, Graph) else [p for p in self.model.parameters() if p.is_floating_point()]
        return weights[0].dtype if weights else x.dtype

    def _require_dtype(self, x: Tensor) -> None:
        if isinstance(x, Tensor) and x.dtype != self._dtype(x):
            raise InvalidValue("x", f"inputs of {x.dtype}", f"must be {self._dtype(x)}, as the model's weights")


def _eps(balls: LpBall) -> Tensor:
    """One radius for each input, ``(n,)``."""
    if balls.eps.shape[1:].numel() != 1:
        raise InvalidValue("eps", "one radius for each coordinate", "give one for each input: the oracle needs a norm")
    return balls.eps.reshape(-1).expand(len(balls))
