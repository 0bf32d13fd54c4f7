"""Examples that training never sees, and how well it does on them."""

from __future__ import annotations

import torch
from torch import Tensor

from verifix.bounds.rounding import plain_arithmetic
from verifix.bounds.tiles import budget
from verifix.data import Dataset
from verifix.errors import InvalidValue
from verifix.graph import Graph
from verifix.train.distributed import Group
from verifix.train.log import Measures, Sums
from verifix.train.loss import robust_logits
from verifix.train.objective import measure, robust_measure
from verifix.train.settings import TrainSettings

_TOGETHER = 256
"""Inputs of one pass, where the byte budget allows as many."""


def hold_out(data: Dataset, settings: TrainSettings) -> tuple[Dataset, Dataset | None]:
    """What to train on and what to validate on, drawn by ``settings.seed``; both keep the order of ``data``.

    Raises:
        InvalidValue: nothing would be left to train on.

    >>> from verifix.data import load
    >>> rest, held_out = hold_out(load("digits:train"), TrainSettings(validation=0.1))
    >>> len(rest), len(held_out)
    (1167, 130)
    """
    if not settings.validation:
        return data, None
    asked, n = settings.validation, len(data)
    count = int(asked) if asked >= 1 else max(1, round(asked * n))
    if count >= n:
        raise InvalidValue("validation", settings.validation, f"leaves nothing of {n} examples to train on")
    generator = torch.Generator().manual_seed(settings.stream("validation"))
    order = torch.randperm(n, generator=generator)
    return data.select(order[count:].sort().values), data.select(order[:count].sort().values)


@torch.no_grad()
def evaluate(graph: Graph, data: Dataset, settings: TrainSettings, group: Group) -> Measures:
    """Standard and robust loss and error at the full eps, exactly; each process of the group takes its share.

    Rounding is not accounted, and nothing is computed again in float64: this chooses a model and certifies nothing.
    """
    part = data if settings.validation_limit is None else data.first(settings.validation_limit)
    share = group.share(len(part))
    totals = torch.zeros(5, dtype=torch.float64, device=group.device)
    if share.stop > share.start:
        images, labels = part.images[share], part.labels[share]
        within = budget(graph, [images.dtype], group.device, settings.memory)
        together = min(_TOGETHER, within.inputs[images.dtype])
        with plain_arithmetic():
            for x, y in zip(images.split(together), labels.split(together), strict=True):
                totals += _measured(graph, x.to(group.device), y.to(group.device), settings, within.passes)
    sums = Sums()
    sums.add(group.sum(totals).tolist())
    return sums.measures(robust=not settings.standard)


def _measured(graph: Graph, x: Tensor, y: Tensor, settings: TrainSettings, memory: int) -> Tensor:
    robust = x.new_zeros(2, dtype=torch.float64)
    if not settings.standard:
        sets = settings.ball().around(x)
        robust = robust_measure(robust_logits(graph, y, sets, settings.exact_methods, memory=memory), y)
    return torch.cat([robust.new_tensor([len(x)]), measure(graph(x), y), robust])
