"""Verdicts, and the result that carries them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor

from verifix.bounds import Confidence, Method, bounds
from verifix.graph import Graph
from verifix.sets import InputSet


class Verdict(StrEnum):
    """What is known of one input; the five are never merged into one another."""

    VERIFIED = "verified"
    """Proved: no point of the set violates the specification."""
    FALSIFIED = "falsified"
    """Refuted: a point of the set does, and was run through the original model."""
    UNKNOWN = "unknown"
    """Neither; also where arithmetic overflowed."""
    TIMEOUT = "timeout"
    ERROR = "error"


@dataclass(frozen=True)
class Result:
    """What :func:`verifix.certify` found, input by input.

    Attributes:
        verdicts: ``(n,)`` array of strings, each a :class:`Verdict`.
        margins: lower bounds over the set, each lowered by a bound on its own rounding error: ``(n, classes)`` of ``f_y
            - f_j`` (infinite at ``j = y``), or ``(n, r)`` of the rows of the specification.
        predictions: the model's own class for each input, ``(n,)``.
        recomputed: which inputs float32 left undecided, so that float64 decided, ``(n,)``.
        confidence: with which probability each verdict ``verified`` holds; None where it holds surely.
        counterexamples: for each falsified input, by index, a point of its set that was run through the model.
    """

    verdicts: np.ndarray
    margins: Tensor
    predictions: Tensor
    recomputed: Tensor
    counterexamples: dict[int, Tensor]
    graph: Graph = field(repr=False)
    inputs: InputSet = field(repr=False)
    methods: Sequence[Method] = field(repr=False)
    memory: int | None = field(default=None, repr=False)
    confidence: Confidence | None = None

    @property
    def margin(self) -> Tensor:
        """The smallest margin of each input, ``(n,)``; positive where it is verified, NaN where nothing is known."""
        return self.margins.amin(1) if self.margins.shape[1] else self.margins.new_full((len(self.margins),), torch.inf)

    @property
    def verified(self) -> Tensor:
        """Which inputs are verified, ``(n,)`` boolean."""
        return torch.from_numpy(self.verdicts == Verdict.VERIFIED.value)

    def bounds(self, node: str) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds of a named node for all inputs, ``(n, *shape)`` each, by the same methods.

        ``result.graph.nodes`` lists the names.
        """
        with torch.no_grad():
            return bounds(self.graph, self.inputs, list(self.methods), node=node, memory=self.memory)
