"""How sums of absolute values are evaluated: exactly, or from random projections."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from verifix.errors import InvalidType, InvalidValue

Kind = Literal["exact", "median", "gaussian", "geometric"]
DEFAULT_ROWS = 50
DEFAULT_DELTA = 0.01
BLOCK = 32
"""How many rows of a geometric mean are drawn at once; part of what a seed means."""


@dataclass(frozen=True)
class Estimator:
    """How the norms in the bounds of hidden units are evaluated; see ``docs/projections.md``.

    Args:
        kind: ``exact``; ``median``: an unbiased estimate from the median of Cauchy projections, for l_inf and l1 balls;
            ``gaussian``: the same with normal projections for the input term, for l2 balls; ``geometric``: an upper
            bound that holds with probability at least ``1 - delta`` for all norms of a certificate together.
        k: how many random rows stand in for the identity; default 50, and for ``geometric`` as many as keep every norm
            within a quarter of itself.
        groups: ``geometric`` takes the largest of this many estimates of ``k`` rows each (``m`` in the thesis); more
            than one is never better.
        delta: the failure probability of ``geometric``, for each certificate.
        seed: of the draws, which all inputs share: what is found for an input does not depend on its batch.

    >>> Estimator.parse("median:50")
    Estimator(kind='median', k=50, groups=1, delta=None, seed=0)
    >>> str(Estimator.parse("geometric:200x10", delta=0.05))
    'geometric:200x10'
    """

    kind: Kind = "exact"
    k: int | None = None
    groups: int = 1
    delta: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InvalidValue("estimator", repr(self.kind), f"choose one of {', '.join(get_args(Kind))}")
        for name, value in (("k", self.k), ("groups", self.groups), ("seed", self.seed)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise InvalidType(name, value, "a whole number")
        if self.kind == "exact" and (self.k is not None or self.delta is not None or self.groups != 1):
            raise InvalidValue("estimator", "exact", "takes neither k, groups nor delta")
        if self.kind in ("median", "gaussian"):
            if self.k is None:
                object.__setattr__(self, "k", DEFAULT_ROWS)
            if self.groups != 1 or self.delta is not None:
                raise InvalidValue("estimator", self.kind, "takes neither groups nor delta: it is an estimate")
        if self.kind == "geometric":
            if self.delta is None:
                object.__setattr__(self, "delta", DEFAULT_DELTA)
            if self.delta is not None and not 0 < self.delta < 1:
                raise InvalidValue("delta", self.delta, "must lie between 0 and 1: it is a failure probability")
            if self.groups > 1 and self.k is None:
                raise InvalidValue("groups", self.groups, "needs k, the rows of each group")
        if self.k is not None and self.k < 2:
            raise InvalidValue("k", self.k, "needs at least 2 rows: one Cauchy variable has no mean")
        if self.groups < 1:
            raise InvalidValue("groups", self.groups, "must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise InvalidValue("seed", self.seed, "must be at least 0 and below 2**63")

    @staticmethod
    def parse(text: str, *, delta: float | None = None, seed: int = 0) -> Estimator:
        """From ``exact``, ``median:K``, ``gaussian:K``, ``geometric``, ``geometric:K`` or ``geometric:KxM``.

        Raises:
            InvalidValue: for anything else.
        """
        match = re.fullmatch(r"(exact|median|gaussian|geometric)(?::(\d+)(?:x(\d+))?)?", str(text).strip().lower())
        if match is None:
            raise InvalidValue(
                "estimator",
                repr(text),
                "write exact, median:50, gaussian:50, geometric, geometric:2000 or geometric:200x10",
            )
        kind, k, groups = match.groups()
        return Estimator(kind, None if k is None else int(k), int(groups or 1), delta, seed)  # type: ignore[arg-type]

    @property
    def exact(self) -> bool:
        return self.kind == "exact"

    @property
    def certain(self) -> bool:
        """Whether what it gives is an upper bound, surely or with a stated probability."""
        return self.kind in ("exact", "geometric")

    @property
    def rows_at_once(self) -> int:
        """How many rows are pushed forward together for every input."""
        return {"exact": 0, "geometric": BLOCK}.get(self.kind, self.k or 0)

    def __str__(self) -> str:
        if self.k is None:
            return self.kind
        return f"{self.kind}:{self.k}" + (f"x{self.groups}" if self.groups > 1 else "")
