"""Norms in the bounds of hidden units, estimated from random rows that are pushed forward.

Between parallel planes a network is affine but for an error of its own at every unit, so a pre-activation is

    z_u = center_u + sum over sources s of <nu_su, e_s>,

with ``e_input`` in the ball and ``|e_s| <= radius_s`` elsewhere, and its bounds are ``center_u`` plus and minus
``|nu_input,u|_* + sum_s |radius_s nu_su|_1``. All ``l1`` norms in it are one norm of one long vector: rows that start
as ``radius_s R_s`` at each source, with independent Cauchy ``R_s``, and are pushed forward together arrive at ``u`` as
Cauchy variables of that very scale. This is theorem 4 of the thesis (algorithm 3) with one bundle of ``k`` rows for all
of its terms in place of one for each; see ``docs/projections.md``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from verifix.bounds.bundle import Bundle
from verifix.bounds.confidence import Account
from verifix.bounds.estimator import BLOCK, Estimator
from verifix.bounds.starts import Drawn, Starts
from verifix.errors import InvalidValue
from verifix.graph import INPUT, Graph
from verifix.kernels.abs_median import abs_median
from verifix.operations import Affine, Slab
from verifix.sets import InputSet
from verifix.sets.base import NormBall
from verifix.tensors import flatten

LOGARITHMS = 1e-9
"""Covers the rounding of logarithms, their sums and exponentials, in float64."""


class Projection:
    """Centers and estimated spreads of a network's nodes over one batch of input sets.

    Args:
        estimator: any but ``exact``.
        slab_of: the parallel planes of a nonlinear node, from bounds that were found before.
        error_of: for ``geometric``: a bound, per unit of the largest draw, on the rounding of rows at a node,
            ``(n, *shape)``.

    Raises:
        InvalidValue: the sets are no balls or boxes, or the estimator does not fit their norm.
    """

    def __init__(
        self,
        graph: Graph,
        inputs: InputSet,
        estimator: Estimator,
        slab_of: Callable[[str], Slab],
        error_of: Callable[[str], Tensor | None],
    ) -> None:
        self.graph, self.inputs, self.estimator = graph, inputs, estimator
        self.ball = _fitting(inputs.norm_ball(), estimator)
        self._slab_of, self._error_of = slab_of, error_of
        self.slabs: dict[str, Slab] = {}
        self.starts = Starts(graph, self.ball, self.slabs, estimator.seed)
        self._center = Bundle(graph, self.slabs, self.starts.center, points=True)
        self._kept: dict[str, Bundle] = {}
        self.account = (
            Account(graph, estimator, len(inputs), self.starts.terms) if estimator.kind == "geometric" else None
        )

    @property
    def rows(self) -> int:
        """How many rows an estimate takes."""
        if self.account is not None:
            return self.account.k * self.estimator.groups
        return self.estimator.k or 0

    def settle(self, name: str) -> None:
        """The bounds of a node are exact for every input."""
        if self.account is not None:
            self.account.settle(name)

    def estimates(self, name: str) -> bool:
        """Whether a node's bounds may be estimated: those that the lines before the output are made of."""
        return name != INPUT and any(name in node.inputs for node in self.graph.nonlinear(self.graph.output))

    def interval_is_exact(self, name: str) -> bool:
        """Whether an interval pass gives the exact bounds of a node: over a box, where entries are added up once."""
        if self.ball.norm != "linf" or not self.ball.whole or self._sources(name):
            return False
        nodes = self.graph.ancestors(name)
        read = [source for node in nodes for source in node.inputs]
        mixing = sum(isinstance(node.operation, Affine) and node.operation.mixes for node in nodes)
        return mixing <= 1 and len(read) == len(set(read))

    def exact(self, name: str, wanted: Tensor) -> Tensor:
        """The inputs for which the exact bounds of a node take no more rows than an estimate, ``(n,)``.

        Exact bounds take one row for every entry that is wanted, ``(n, *shape)``, or one for every error that an input
        has.
        """
        self._prepare(name)
        radii = [self.ball.radius.expand_as(self.inputs.center), *(self.slabs[s].radius for s in self._sources(name))]
        errors = torch.stack([(flatten(radius.detach(), 1) != 0).sum(1) for radius in radii]).sum(0)
        return torch.minimum(flatten(wanted, 1).sum(1), errors) <= self.rows

    def __call__(self, name: str, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Center and spread of a node, both ``(n, *shape)``.

        Args:
            wanted: the entries whose spread will be used, ``(n, *shape)``: ``geometric`` counts them.
        """
        self._prepare(name)
        center = self._center.at(name)
        if center is None:
            raise InvalidValue("node", repr(name), "does not depend on the input")
        if self.account is None:
            spread = self._estimate(name)
        else:
            levels = self.account.spend(name, flatten(wanted, 1).sum(1).cpu())
            spread = self._bound(name, self.account, levels)
        shape = self.graph.shape_of(name)
        return center[:, 0].expand(len(wanted), *shape), spread.reshape(-1, *shape).expand(len(wanted), *shape)

    def _prepare(self, name: str) -> None:
        for source in self._sources(name):
            if source not in self.slabs:
                self.slabs[source] = self._slab_of(source)

    def _sources(self, name: str) -> list[str]:
        return [node.name for node in self.graph.nonlinear(name)] if name != INPUT else []

    # what arrives: (n or 1, entries)

    def _estimate(self, name: str) -> Tensor:
        """Unbiased estimates; the rows go on to the nodes after this one."""
        k = self.rows
        spread = self._largest_coordinate(name)
        if (rows := self._shared("cauchy").at(name)) is not None:
            spread = spread + abs_median(flatten(rows, 2))[0] / mean_of_median(k)
        if (rows := self._shared("normal").at(name)) is not None:
            spread = spread + _euclidean(flatten(rows, 2)) / mean_of_chi(k)
        return spread

    def _shared(self, kind: Drawn) -> Bundle:
        if kind not in self._kept:
            self._kept[kind] = Bundle(self.graph, self.slabs, self.starts.drawn(kind, "shared", self.rows))
        return self._kept[kind]

    def _bound(self, name: str, account: Account, log_levels: Tensor) -> Tensor:
        """Upper bounds, each of which fails with probability at most ``exp(log_levels)``, ``(n,)``.

        The planes depend on earlier draws, so every node has draws of its own.
        """
        spread = self._largest_coordinate(name)
        slack = 1 + 4 * torch.finfo(spread.dtype).eps  # for what is rounded when it is put together
        if (logs := self._gather(name, "cauchy", account.k, torch.log)) is not None:
            geometric = (
                (logs / account.k).amax(1).exp() * (1 + LOGARITHMS) * account.inflation(log_levels).to(logs)[:, None]
            )
            spread = (spread + geometric.to(spread)) * slack
        if (squares := self._gather(name, "normal", account.k, torch.square)) is not None:
            lost = self.rows * torch.finfo(squares.dtype).tiny  # squares that underflow
            length = (squares.sum(1) + lost).sqrt() * account.deflation(log_levels).to(squares)[:, None]
            spread = (spread + length.to(spread)) * slack
        return spread

    def _gather(self, name: str, kind: Drawn, k: int, of: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Sums of a function of the sizes of fresh rows over each group, in float64: ``(n, groups, entries)``.

        Every row is enlarged by a bound on its own rounding, which is relative to its largest draw.
        """
        total: Tensor | None = None
        error = self._error_of(name)
        for first in range(0, self.rows, BLOCK):
            largest: list[Tensor] = []
            rows = Bundle(self.graph, self.slabs, self.starts.drawn(kind, f"{name}/{first}", BLOCK, largest)).at(name)
            if rows is None:
                return None
            sizes = flatten(rows, 2).abs()
            if error is not None:
                sizes = sizes + torch.stack(largest).amax(0)[:, None] * flatten(error, 1)[:, None]
            sizes = sizes.double()
            if total is None:
                total = sizes.new_zeros(len(sizes), self.estimator.groups, sizes.shape[2])
            for row in range(min(BLOCK, self.rows - first)):
                total[:, (first + row) // k] += of(sizes[:, row])
        return total

    def _largest_coordinate(self, name: str) -> Tensor:
        """``max_i |radius_i nu_i|``, exactly, where the ball is one of l1; zero elsewhere."""
        size = math.prod(self.graph.input_shape)
        largest = self.ball.center.new_zeros(1, math.prod(self.graph.shape_of(name)))
        for first in range(0, size, BLOCK) if self.ball.norm == "l1" else ():
            rows = Bundle(self.graph, self.slabs, self.starts.coordinates(first, min(first + BLOCK, size))).at(name)
            if rows is not None:
                largest = torch.maximum(largest, flatten(rows, 2).abs().amax(1))
        return largest


@functools.cache
def mean_of_median(k: int) -> float:
    """The mean of :func:`verifix.kernels.abs_median` of ``k`` standard Cauchy variables.

    The ``r``-th smallest of ``k`` uniform variables has density ``u^(r-1) (1-u)^(k-r) / B(r, k-r+1)``, and the absolute
    value of a Cauchy variable is ``tan(pi u / 2)``.

    >>> round(mean_of_median(50), 4), round(mean_of_median(51), 4)
    (0.9934, 1.0247)
    """
    from scipy.integrate import quad  # here, as few need it: scipy takes its time to load

    r = (k - 1) // 2 + 1
    scale = math.lgamma(r) + math.lgamma(k - r + 1) - math.lgamma(k + 1)

    def density(u: float) -> float:
        if not 0 < u < 1:
            return 0.0
        log = (r - 1) * math.log(u) + (k - r) * math.log1p(-u) - scale
        return math.tan(math.pi * u / 2) * math.exp(log)

    peak = (r - 1) / (k - 1) if k > 1 else 0.5
    return float(quad(density, 0, 1, points=[peak] if 0 < peak < 1 else None, limit=500, epsabs=1e-13, epsrel=1e-12)[0])


def mean_of_chi(k: int) -> float:
    """The mean length of ``k`` independent standard normal variables."""
    return math.sqrt(2) * math.exp(math.lgamma((k + 1) / 2) - math.lgamma(k / 2))


def _euclidean(rows: Tensor) -> Tensor:
    """The length of ``(n, k, entries)`` over the rows; its gradient at zero is zero."""
    squares = rows.square().sum(1)
    return torch.where(squares > 0, squares.clamp(min=torch.finfo(rows.dtype).tiny).sqrt(), squares)


def _fitting(ball: NormBall | None, estimator: Estimator) -> NormBall:
    if ball is None:
        raise InvalidValue("estimator", str(estimator), "needs balls or boxes as input sets: use exact")
    if estimator.kind == "median" and ball.norm == "l2":
        raise InvalidValue("estimator", str(estimator), "estimates l1 norms: an l2 ball needs gaussian")
    if estimator.kind == "gaussian" and ball.norm != "l2":
        raise InvalidValue("estimator", str(estimator), f"estimates l2 norms: a ball of {ball.norm} needs median")
    return ball
