"""Certifying by many bounds, without the expensive ones where cheap ones do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from verifix.bounds import Method
from verifix.certify import Verdict, certify
from verifix.certify.run import Certifier
from verifix.graph import Graph
from verifix.sets import InputSet


@dataclass(frozen=True)
class Answers:
    """What :func:`by_cost` decided: ``(n,)`` each, as :class:`verifix.certify.Result` has them."""

    verdicts: np.ndarray
    margin: Tensor
    predictions: Tensor


def by_cost(graph: Graph, methods: tuple[Method, ...], memory: int | None) -> Certifier:
    """Certify by the best of all methods, entry by entry; those with backward passes for hidden units (``cap``,
    ``crown``) are asked only where the others leave an input undecided. The verdicts are those of all methods at once:
    more bounds never undo a certificate. Margins of inputs that are decided early are those of the others alone, which
    bound them from below as well.
    """
    cheap = tuple(method for method in methods if method.intermediate == "interval")

    def decide(x: Tensor, y: Tensor, inputs: InputSet) -> Answers:
        first = certify(graph, x, y, inputs, method=cheap or methods, memory=memory)
        answers = Answers(first.verdicts, first.margin, first.predictions)
        undecided = torch.from_numpy(first.verdicts == Verdict.UNKNOWN).to(x.device).nonzero()[:, 0]
        if len(undecided) and cheap and len(cheap) < len(methods):
            rest = certify(graph, x[undecided], y[undecided], inputs.select(undecided), method=methods, memory=memory)
            answers.verdicts[undecided.cpu().numpy()] = rest.verdicts
            answers.margin[undecided] = rest.margin
        return answers

    return decide
