"""The robust loss: the loss of the worst logits that the bounds allow."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from verifix.bounds import NAMED, Engine, MethodLike, parse_method
from verifix.certify import Margins
from verifix.errors import InvalidValue
from verifix.graph import Graph
from verifix.sets import InputSet

IBP = NAMED["ibp"]


def robust_logits(
    graph: Graph, y: Tensor, inputs: InputSet, method: MethodLike, *, beta: float = 1.0, memory: int | None = None
) -> Tensor:
    """Logits at least as bad for the label as any input of the set can make them: ``(n, classes)``, zero at the label.

    Entry ``j`` is an upper bound of ``f_j - f_y`` over the set, differentiable in parameters and inputs; of several
    methods the smallest one. No rounding is accounted: this is for training, not for certificates. With an estimator
    other than exact it is an estimate of that bound.

    Args:
        y: labels ``(n,)``.
        inputs: where the inputs may be, in raw units.
        method: as in :func:`verifix.bounds`; the seed of an estimator should differ from step to step.
        beta: the weight of that bound; the rest is that of interval bounds (Lee et al., equation 3), from the same
            interval pass where the method has one. At 0 and 1 only one of them is computed.
        memory: byte budget of the rows of a pass; what autograd keeps is not bounded by it.

    Raises:
        InvalidValue: labels that are no classes or not one for each input, an estimator that does not fit the sets, no
            method, a weight that is not within [0, 1].
    """
    return bounded_logits(graph, y, inputs, method, beta=beta, memory=memory)[0]


def bounded_logits(
    graph: Graph, y: Tensor, inputs: InputSet, method: MethodLike, *, beta: float = 1.0, memory: int | None = None
) -> tuple[Tensor, Engine]:
    """The same, and the engine of the first bound, which knows the bounds of hidden units."""
    if not 0 <= beta <= 1:
        raise InvalidValue("beta", beta, "must lie within [0, 1]")
    specification = Margins(y, graph.shape[0])
    if len(y) != len(inputs):
        raise InvalidValue("y", f"{len(y)} labels", f"pass one for each of the {len(inputs)} inputs")
    rows = specification.rows(slice(None), inputs.center)
    first, *others = parse_method(method) if beta else (IBP,)
    engine = Engine(graph, inputs, first, memory=memory, rounding=False)
    lower, _ = engine.rows(graph.output, rows, upper=False)
    for choice in others:
        lower = torch.maximum(lower, engine.beside(choice).rows(graph.output, rows, upper=False)[0])
    if 0 < beta < 1:
        lower = beta * lower + (1 - beta) * engine.beside(IBP).rows(graph.output, rows, upper=False)[0]
    logits = inputs.center.new_zeros(len(inputs), graph.shape[0])
    return logits.scatter(1, specification.others.to(lower.device), -lower), engine


def robust_loss(
    graph: Graph, y: Tensor, inputs: InputSet, method: MethodLike, *, beta: float = 1.0, memory: int | None = None
) -> Tensor:
    """Mean cross-entropy of the robust logits: an upper bound on the cross-entropy of every input of the set.

    Thesis, theorem 2 and equation 3.26; Lee et al., equation 1. The loss is monotone and does not change when a
    constant is added to all logits, which is what the theorem asks of it.

    >>> import torch
    >>> from verifix import Ball, capture
    >>> from verifix.bounds import NAMED
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> x, y = torch.rand(4, 2), torch.tensor([0, 1, 0, 1])
    >>> loss = robust_loss(capture(model, x), y, Ball("linf", eps=0.1).around(x), NAMED["crown-ibp"])
    >>> bool(loss >= F.cross_entropy(model(x), y) - 1e-6)
    True
    """
    return F.cross_entropy(robust_logits(graph, y, inputs, method, beta=beta, memory=memory), y)
