"""Certificates that hold with a stated probability, and estimates, which are none."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from verifix.bounds import Confidence, Engine, Method
from verifix.errors import InvalidValue
from verifix.graph import Graph
from verifix.sets import InputSet


def share_delta(methods: tuple[Method, ...]) -> tuple[Method, ...]:
    """The methods, with each probability of failure divided by the number of methods that may fail.

    Raises:
        InvalidValue: a method that gives estimates, not bounds.
    """
    for method in methods:
        if not method.estimator.certain:
            raise InvalidValue(
                "estimator", str(method.estimator), "gives estimates, not bounds: certify with exact or geometric"
            )
    count = sum(may_fail(method) for method in methods)
    return tuple(_share(method, count) if may_fail(method) else method for method in methods)


def _share(method: Method, count: int) -> Method:
    delta = method.estimator.delta
    return method if delta is None else replace(method, estimator=replace(method.estimator, delta=delta / count))


def may_fail(method: Method) -> bool:
    """Whether the bounds of a method hold with a probability only."""
    return method.estimator.kind == "geometric"


def require_rows(graph: Graph, sets: InputSet, methods: tuple[Method, ...]) -> None:
    """Refuse methods with too few random rows for sets such as these, before anything is computed.

    Raises:
        InvalidValue: with a number of rows that would do; or the sets do not fit an estimator.
    """
    for method in share_delta(methods):
        if may_fail(method):
            Engine(graph, sets.select(slice(0, 1)).to(torch.float64), method).require_rows()


class Tally:
    """What was estimated for each of ``n`` inputs, over all methods."""

    def __init__(self, n: int) -> None:
        self._estimates = torch.zeros(n, dtype=torch.int64)
        self._spent: dict[int, Confidence] = {}

    def add(self, method: int, confidence: Confidence | None, index: slice | Tensor) -> None:
        """Note what the ``method``-th method did for some inputs."""
        if confidence is not None:
            self._spent[method] = confidence
            self._estimates[index if isinstance(index, slice) else index.cpu()] += confidence.estimates

    def confidence(self) -> Confidence | None:
        """All of it; None where nothing can fail."""
        if not self._spent:
            return None
        parts = list(self._spent.values())
        return replace(parts[0], delta=sum(part.delta for part in parts), estimates=self._estimates)
