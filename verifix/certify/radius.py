"""The largest certified radius of each input (thesis, equation 3.29)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from verifix.bounds import Method, MethodLike
from verifix.bounds.method import exact_methods
from verifix.bounds.rounding import plain_arithmetic
from verifix.bounds.tiles import Budget, budget
from verifix.certify.certify import classifier, logits_at_test_time, lower_margins
from verifix.certify.search import Margin, largest_radius
from verifix.certify.specification import Margins, Specification
from verifix.certify.verdict import Verdict
from verifix.errors import InvalidType, InvalidValue
from verifix.graph import Graph
from verifix.sets import Ball, InputSet, LpBall, Wasserstein, WassersteinBall
from verifix.sets.base import Norm, check_points

TOLERANCE = 1e-5
MAX_EPS = 2.0**20
"""The largest radius that is tried where there is no box."""


@dataclass(frozen=True)
class Radii:
    """What :func:`radius` found, input by input; radii are float64, exactly the ones that were certified.

    Attributes:
        verdicts: ``(n,)`` array of strings: ``verified`` where a certificate exists, at least for the input itself;
            ``falsified`` where the network gets the input wrong; ``unknown`` where nothing is certified, not even the
            input: a tie, or arithmetic that overflows.
        radii: the largest radius found with a certificate, ``(n,)``; zero where no positive one has it.
        uncertified: the smallest radius tried above that has none, ``(n,)``: at most ``1 + tolerance`` times the
            radius where that is above zero, infinite where the largest radius to be tried was certified, and zero
            where none was tried.
        predictions: the model's own class for each input, ``(n,)``.
        evaluations: how many times the network was bounded for each input, ``(n,)``.
    """

    verdicts: np.ndarray
    radii: Tensor
    uncertified: Tensor
    predictions: Tensor
    evaluations: Tensor


def radius(
    model: nn.Module | Graph,
    x: Tensor,
    y: Tensor | None = None,
    *,
    norm: Norm | Wasserstein = "linf",
    box: tuple[float | Tensor, float | Tensor] | None = None,
    method: MethodLike = "crown",
    max_eps: float | None = None,
    tolerance: float = TOLERANCE,
    memory: int | None = None,
) -> Radii:
    """The largest radius at which each input is certified (thesis, section 3.1.5 and equation 3.29).

    Within its radius no point changes the class of the input: the distance to the decision boundary is more than that.
    :func:`verifix.certify` says ``verified`` at exactly the radius returned; at ``uncertified``, larger by a factor of
    at most ``1 + tolerance``, there is no certificate. Both were evaluated, in float64 and with their rounding
    accounted (:mod:`verifix.certify.search` says how they are found). Lines change with the radius, so that a bound
    need not fall everywhere, and a larger radius may be certified again; the one returned rests on its own certificate
    and on nothing else. Where slopes are ``adaptive``, which jump, float32 may happen to certify ``uncertified`` too.

    Args:
        model: a classifier that returns logits ``(n, classes)``, or its graph (:func:`verifix.capture`).
        x: inputs ``(n, *shape)``, in raw units, float32 or float64.
        y: labels ``(n,)`` that are to be certified; by default the model's own predictions.
        norm, box: of the :class:`verifix.Ball` around each input; the box is never dropped. Or a
            :class:`verifix.Wasserstein`, whose eps is not looked at, and no box beside it.
        method: as in :func:`verifix.certify`.
        max_eps: the largest radius to try; by default the distance to the farthest corner of the box, beyond which a
            ball does not grow, or 2**20; for Wasserstein balls where all mass may go as far as it can.
        tolerance: relative, between 1e-9 and 1.
        memory: byte budget of all that is computed here; default a quarter of what is free.

    Raises:
        UnsupportedOperation: the model holds an operation without a rule.
        InvalidValue, InvalidType: what is wrong with an argument, by name.

    >>> model = nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = model.weight.copy_(torch.eye(2)), model.bias.zero_()
    >>> found = radius(model, torch.tensor([[1.0, 0.0], [0.5, 0.75], [0.5, 0.5]]))
    >>> found.verdicts.tolist()
    ['verified', 'verified', 'unknown']
    >>> [f"{eps:.5f}" for eps in found.radii.tolist()]
    ['0.50000', '0.12500', '0.00000']
    """
    methods = exact_methods(method)
    balls = threat_at_zero(norm, box).around(check_points("x", x).detach())
    most = largest_eps(balls, max_eps)
    check_tolerance(tolerance)
    graph = classifier(model, x)
    with torch.no_grad(), plain_arithmetic():
        within = budget(graph, sorted({x.dtype, torch.float64}, key=str), x.device, memory)
        logits = logits_at_test_time(graph, x, within)
        predictions = logits.argmax(1) if logits.shape[1] else logits.new_zeros(len(x), dtype=torch.int64)
        specification = Margins(predictions if y is None else y, graph.shape[0])
        specification.check(len(x), graph.shape[0])
        points = balls.to(torch.float64)

        def margin(inputs: Tensor, eps: Tensor) -> Tensor:
            sets = points.select(inputs.to(x.device)).with_eps(eps)
            return smallest_margins(graph, sets, specification, methods, within, inputs)

        labels = specification.labels.to(predictions.device)
        return search_radii(margin, clean_margins(logits, labels), most, predictions == labels, predictions, tolerance)


def threat_at_zero(norm: Norm | Wasserstein, box: tuple[float | Tensor, float | Tensor] | None) -> Ball | Wasserstein:
    """The threat model of a search for radii, at radius zero."""
    if not isinstance(norm, Wasserstein):
        return Ball(norm, 0.0, box)
    if box is not None:
        raise InvalidValue("box", box, "is part of the Wasserstein threat model: give it there")
    return replace(norm, eps=0.0)


def smallest_margins(
    graph: Graph,
    sets: InputSet,
    specification: Specification,
    methods: tuple[Method, ...],
    within: Budget,
    index: Tensor,
) -> Tensor:
    """The smallest lower bound of any row over each set, of the inputs with these numbers: ``(n,)``, on the CPU.

    Infinite where there is no row.
    """
    parts = [
        lower_margins(graph, sets.select(tile), specification, methods, within.passes, index[tile])
        for tile in within.tiles(len(index), torch.float64)
    ]
    rows = torch.cat(parts)
    return (rows.amin(1) if rows.shape[1] else rows.new_full((len(rows),), math.inf)).cpu()


def check_tolerance(tolerance: object) -> None:
    """Refuse what is no relative tolerance of the search."""
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)):
        raise InvalidType("tolerance", tolerance, "a number")
    if not 1e-9 <= tolerance <= 1:
        raise InvalidValue("tolerance", tolerance, "must be between 1e-9 and 1")


def search_radii(
    margin: Margin, clean: Tensor, most: Tensor, right: Tensor, predictions: Tensor, tolerance: float
) -> Radii:
    """The radii of inputs with these margins at radius zero, about; NaN where the network's outputs overflow."""
    right = right.cpu()
    verdicts = np.where(right.numpy(), Verdict.UNKNOWN.value, Verdict.FALSIFIED.value)
    verdicts[torch.isnan(clean).numpy()] = Verdict.UNKNOWN.value
    radii, uncertified = torch.zeros_like(clean), torch.zeros_like(clean)
    evaluations = torch.zeros_like(clean, dtype=torch.int64)

    def check_at_zero(index: Tensor) -> Tensor:
        if not len(index):
            return clean[index]
        evaluations[index] += 1
        value = margin(index, torch.zeros_like(clean[index]))
        verdicts[index[value > 0].numpy()] = Verdict.VERIFIED.value
        return value

    wanted = right & ~torch.isnan(clean)
    close = (wanted & ((clean <= 0) | (most <= 0))).nonzero()[:, 0]
    clean = clean.index_put((close,), check_at_zero(close))
    uncertified[(most <= 0) & torch.from_numpy(verdicts == Verdict.VERIFIED.value)] = math.inf

    open_ = (wanted & (clean > 0) & (most > 0)).nonzero()[:, 0]
    bracket = largest_radius(lambda index, eps: margin(open_[index], eps), clean[open_], most[open_], tolerance)
    radii[open_], uncertified[open_] = bracket.certified, bracket.uncertified
    evaluations[open_] += bracket.evaluations
    verdicts[open_[bracket.certified > 0].numpy()] = Verdict.VERIFIED.value
    check_at_zero(open_[bracket.certified == 0])
    return Radii(verdicts, radii, uncertified, predictions, evaluations)


def clean_margins(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the label's logit is above every other; NaN where any logit is not finite."""
    exact = logits.double()
    others = exact.scatter(1, labels[:, None], -math.inf)
    margins = exact.gather(1, labels[:, None])[:, 0] - others.amax(1)
    return torch.where(torch.isfinite(exact).all(1), margins, math.nan).cpu()


def largest_eps(balls: LpBall | WassersteinBall, max_eps: float | None) -> Tensor:
    """The largest radius to try for each input: where the ball is the whole box, at the latest."""
    if max_eps is not None and (isinstance(max_eps, bool) or not isinstance(max_eps, (int, float))):
        raise InvalidType("max_eps", max_eps, "a number")
    most = MAX_EPS if max_eps is None else float(max_eps)
    if not 0 < most < math.inf:
        raise InvalidValue("max_eps", max_eps, "must be finite and above 0")
    limit = torch.full((len(balls),), most, dtype=torch.float64)
    if isinstance(balls, WassersteinBall):
        return torch.minimum(balls.reach.cpu(), limit)
    if balls.box is None:
        return limit
    center, (lower, upper) = balls.center.double(), balls.box
    reach = torch.maximum(center - lower, upper - center).flatten(1)
    order = {"linf": math.inf, "l2": 2.0, "l1": 1.0}[balls.norm]
    # a little more, for the rounding of the norm
    return torch.minimum(torch.linalg.vector_norm(reach, ord=order, dim=1).cpu() * (1 + 2.0**-40), limit)
