"""How the failure probability of a certificate is spent on the norms that it estimates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from verifix.bounds.estimator import Estimator
from verifix.bounds.tail import LARGEST_INFLATION, TARGET_INFLATION, inflation, rows_for
from verifix.errors import InvalidValue
from verifix.graph import INPUT, Graph

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Confidence:
    """With which probability bounds hold.

    Attributes:
        delta: for each input, the probability that its bounds are not bounds is at most this.
        k: rows of every estimate.
        groups: of how many such estimates the largest was taken (``m``).
        estimates: how many norms were estimated for each input, ``(n,)``; where none was, nothing can fail.
        seed: of the draws.
    """

    delta: float
    k: int
    groups: int
    estimates: Tensor
    seed: int


class Account:
    """What is left of ``delta`` for each input, and how many estimates were made.

    Every hidden node that may be estimated has a claim, by its number of estimates, on what is left; what a node
    does not need stays for those after it. Levels depend on nothing but what was found before, so the union bound
    holds node after node, given the draws of the nodes before.

    Args:
        terms: how many norms an entry of a node takes.
    """

    def __init__(self, graph: Graph, estimator: Estimator, inputs: int, terms: Callable[[str], int]) -> None:
        self.estimator, self._terms = estimator, terms
        self.delta = estimator.delta or 0.0
        hidden = dict.fromkeys(node.inputs[0] for node in graph.nonlinear(graph.output) if node.inputs[0] != INPUT)
        self._claims = {name: terms(name) * math.prod(graph.shape_of(name)) for name in hidden}
        self._left = torch.full((inputs,), self.delta * (1 - _ROUNDING), dtype=torch.float64)
        self.estimates = torch.zeros(inputs, dtype=torch.int64)
        self.k = estimator.k or rows_for(self._log_level(), TARGET_INFLATION)

    def _log_level(self) -> float:
        """The least level that an estimate can have: where every claim is made."""
        return math.log(self.delta) - math.log(max(1, sum(self._claims.values())))

    def require_rows(self) -> None:
        """Refuse before anything is computed what :meth:`inflation` may refuse on the way.

        Raises:
            InvalidValue: there are layers to estimate, and too few rows.
        """
        rows = self.k * self.estimator.groups
        if any(claim > rows * self._terms(name) > 0 for name, claim in self._claims.items()):
            self.inflation(torch.tensor([self._log_level() - _ROUNDING], dtype=torch.float64))

    def settle(self, name: str) -> None:
        """A node gives up its claim: its bounds are exact."""
        self._claims.pop(name, None)

    def spend(self, name: str, wanted: Tensor) -> Tensor:
        """For a node with so many entries to estimate, ``(n,)``: logarithms of the probability that each may fail."""
        self.settle(name)
        count = wanted * self._terms(name)
        rest = sum(self._claims.values())
        share = self._left * count / (count + rest).clamp(min=1)
        if bool(((share <= 0) & (count > 0)).any()):
            raise InvalidValue("node", repr(name), "asked for after all of delta was spent: ask for it first")
        self._left = self._left - share
        self.estimates += count
        return torch.where(count > 0, share.log() - count.clamp(min=1).double().log(), 0.0)

    def inflation(self, log_levels: Tensor) -> Tensor:
        """The factor on geometric means, ``(n,)``.

        Raises:
            InvalidValue: it is larger than a norm is worth, with the number of rows that would do.
        """
        k, groups = self.k, self.estimator.groups
        worst = float(log_levels.min()) if len(log_levels) else 0.0
        if inflation(worst, k, groups) > LARGEST_INFLATION:
            enough = rows_for(worst, LARGEST_INFLATION, groups)
            raise InvalidValue(
                "k", k, f"is too few for delta {self.delta:g}: every norm would more than double; k = {enough} would do"
            )
        return torch.tensor([inflation(level, k, groups) for level in log_levels.tolist()], dtype=torch.float64)

    def deflation(self, log_levels: Tensor) -> Tensor:
        """The factor on the length of normal rows, ``(n,)``: over the quantile of its chi distribution."""
        from scipy.special import gammaincinv  # here, as few need it: scipy takes its time to load

        rows = self.k * self.estimator.groups
        quantiles = 2 * gammaincinv(rows / 2, log_levels.clamp(max=math.log(0.5)).exp().numpy())
        return torch.as_tensor((1 + _ROUNDING) / quantiles**0.5, dtype=torch.float64)

    def confidence(self) -> Confidence:
        """What was spent."""
        return Confidence(self.delta, self.k, self.estimator.groups, self.estimates.clone(), self.estimator.seed)
