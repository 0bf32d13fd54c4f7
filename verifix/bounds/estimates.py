"""How good estimated norms are: their relative errors on a network, over many draws."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from verifix.bounds.engine import Engine
from verifix.bounds.estimator import Estimator
from verifix.bounds.method import NAMED
from verifix.bounds.rounding import plain_arithmetic
from verifix.errors import InvalidType
from verifix.graph import Graph, capture
from verifix.sets import InputSet


@dataclass(frozen=True)
class RelativeErrors:
    """Of one node and one estimator: ``estimate / exact - 1``, ``(draws, n, entries)``; NaN where the norm is zero."""

    node: str
    estimator: str
    errors: Tensor

    @property
    def mean(self) -> float:
        """Over everything; zero, but for chance, where the estimator is unbiased."""
        return float(self.errors.nanmean())

    @property
    def deviation(self) -> float:
        """The root of the mean square."""
        return float(self.errors.square().nanmean().sqrt())


@torch.no_grad()
def relative_errors(
    model: nn.Module | Graph, inputs: InputSet, estimator: Estimator, node: str, *, draws: int = 20
) -> RelativeErrors:
    """Estimate the spread of every entry of a node again and again, and compare it with the exact one.

    The lines of all nodes before it are the exact method's (``cap``), so that nothing but the draws differs: what
    figure 3.19 of the thesis shows.

    Args:
        node: one whose norms are worth estimating: behind a nonlinear node, with more entries than rows.
        draws: how often; seeds count up from that of the estimator.

    Raises:
        InvalidType: the estimator is exact.
        InvalidValue: it does not fit the input sets; an unknown node.

    >>> from verifix import Ball
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(20, 60), nn.ReLU(), nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 2))
    >>> sets = Ball("linf", eps=0.1).around(torch.rand(2, 20))
    >>> coarse, fine = (relative_errors(model, sets, Estimator("median", k), "2", draws=50) for k in (10, 50))
    >>> coarse.errors.shape, coarse.deviation > 1.5 * fine.deviation, abs(fine.mean) < 0.05
    (torch.Size([50, 2, 60]), True, True)
    """
    if estimator.exact:
        raise InvalidType("estimator", str(estimator), "one that estimates, such as median:50")
    graph = model if isinstance(model, Graph) else capture(model, inputs.center[:1])
    found = []
    with plain_arithmetic():
        exact = Engine(graph, inputs, NAMED["cap"], rounding=False)
        lower, upper = exact.node(node)
        spread = ((upper - lower) / 2).flatten(1)
        for draw in range(draws):
            method = replace(NAMED["cap"], estimator=replace(estimator, seed=estimator.seed + draw))
            found.append(Engine(graph, inputs, method, rounding=False).spread(node, like=exact).flatten(1))
    errors = torch.stack(found) / spread - 1
    return RelativeErrors(node, str(estimator), torch.where(spread > 0, errors, torch.nan))
