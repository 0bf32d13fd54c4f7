"""How tight several bounds are on one network, input by input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from verifix.bounds import parse_method
from verifix.bounds.method import exact_methods
from verifix.bounds.rounding import plain_arithmetic
from verifix.bounds.tiles import budget
from verifix.data import Dataset
from verifix.graph import Graph
from verifix.sets import Ball
from verifix.train.loss import robust_logits

METHODS = ("tight-smooth", "crown-ibp", "cap-ibp", "interval:random", "ibp")
"""What Lee et al. compare on one network (section 6 and figure 3), and intervals beside them."""
_TOGETHER = 256


@dataclass(frozen=True)
class MarginBounds:
    """What a method makes of every input, in float64: smaller is tighter.

    Attributes:
        method: its spelling.
        total: ``(n,)`` the sum over classes of the upper bounds of ``f_m - f_y``, that of the label being 0.
        loss: ``(n,)`` the robust loss: the cross-entropy of these bounds.
    """

    method: str
    total: Tensor
    loss: Tensor


@torch.no_grad()
def margin_bounds(
    graph: Graph,
    data: Dataset,
    ball: Ball,
    methods: Sequence[str] = METHODS,
    *,
    memory: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[MarginBounds]:
    """The tightness measure of Lee et al., section 6, and the robust loss, of each input on its own.

    Rounding is not accounted. Random starts have the seed of their method's spelling.

    Args:
        graph: the network, on the device of the data.
        data: inputs and labels.
        methods: spellings as :func:`verifix.bounds` takes them; several joined by ``+`` are one, the best of them.
        memory: byte budget.
        progress: called with how many inputs are done, over all methods, and how many there are.

    Raises:
        InvalidValue: an unknown method, one that estimates, inputs outside the box, a budget that is too small.

    >>> from torch import nn
    >>> from verifix import capture
    >>> from verifix.data import load
    >>> data = load("digits").first(4)
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    >>> tight, loose = margin_bounds(capture(model, data.images), data, Ball("linf", 0.1), ["crown-ibp+ibp", "ibp"])
    >>> bool((tight.total <= loose.total).all()), bool((tight.loss <= loose.loss).all()), tight.total.shape
    (True, True, torch.Size([4]))
    """
    choices = [exact_methods(parse_method(method)) for method in methods]
    within = budget(graph, [data.images.dtype], data.images.device, memory)
    together = min(_TOGETHER, within.inputs[data.images.dtype])
    ball.around(data.images)  # refuses inputs outside the box, before the work
    found = []
    with plain_arithmetic():
        for number, (method, choice) in enumerate(zip(methods, choices, strict=True)):
            totals, losses = [], []
            for x, y in zip(data.images.split(together), data.labels.split(together), strict=True):
                worst = robust_logits(graph, y, ball.around(x), choice, memory=within.passes).double()
                totals.append(worst.sum(1))
                losses.append(F.cross_entropy(worst, y, reduction="none"))
                progress(number * len(data) + sum(map(len, totals)), len(methods) * len(data))
            found.append(MarginBounds(method, torch.cat(totals), torch.cat(losses)))
    return found
