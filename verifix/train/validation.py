"""Examples that training never sees, and how well it does on them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verifix.bounds.rounding import plain_arithmetic
from verifix.bounds.tiles import budget
from verifix.data import Dataset
from verifix.errors import InvalidValue
from verifix.graph import Graph
from verifix.train.distributed import Group
from verifix.train.log import Measures, Sums, sums_of
from verifix.train.loss import robust_logits
from verifix.train.objective import measure, robust_measure
from verifix.train.settings import TrainSettings
from verifix.train.smoothing import logits_of, mean_cross_entropy, noisy_copies

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
    """Standard and robust loss and error at ``eps_test``, exactly; each process of the group takes its share.

    The robust ones are by the method's own bounds, as a certificate of that method would have them; where the final
    ``beta`` is below 1, training has relied on those of ``ibp`` too, and every margin has the better of both: never
    looser than what was mixed, and as sound.

    Rounding is not accounted, and nothing is computed again in float64: this chooses a model and certifies nothing.
    """
    part = data if settings.validation_limit is None else data.first(settings.validation_limit)
    share = group.share(len(part))
    totals = sums_of(torch.empty(0, device=group.device))
    if share.stop > share.start:
        images, labels = part.images[share], part.labels[share]
        within = budget(graph, [images.dtype], group.device, settings.memory)
        together = min(_TOGETHER, within.inputs[images.dtype])
        with plain_arithmetic():
            for x, y in zip(images.split(together), labels.split(together), strict=True):
                totals += _measured(graph, x.to(group.device), y.to(group.device), settings, within.passes)
    sums = Sums()
    sums.add(group.sum(totals).tolist())
    return sums.measures(robust=settings.bounded)


def _measured(graph: Graph, x: Tensor, y: Tensor, settings: TrainSettings, memory: int) -> Tensor:
    robust = x.new_zeros(2, dtype=torch.float64)
    if settings.bounded:
        sets = settings.validation_ball.around(x)
        robust = robust_measure(robust_logits(graph, y, sets, settings.exact_methods, memory=memory), y)
    plain = measure(graph(x), y)
    named = {"loss": plain[0], "errors": plain[1], "robust_loss": robust[0], "robust_errors": robust[1]}
    return sums_of(x, examples=len(x), **named)


@torch.no_grad()
def evaluate_under_noise(
    model: nn.Module, data: Dataset, settings: TrainSettings, group: Group, *, together: int = _TOGETHER
) -> Measures:
    """How a network, in eval mode, does under noise: on ``settings.validation_noises`` copies of each input.

    ``loss`` and ``error`` are means over all copies. ``smoothed_error`` is that of a vote among the copies of an input,
    of several classes with as many votes for the first. ``estimated_radius`` is the mean of what the votes suggest as
    certified radius: with ``v`` of ``m`` votes for the label ``sigma z((v + 1/2) / (m + 1))`` where ``v > m / 2``, else
    0 (``z`` is the normal quantile). It chooses a model and certifies nothing: so few votes cannot. A copy with NaN
    among its logits votes for none.

    Args:
        data: inputs; each number in it has noise of its own, the same at each call.
        together: how many inputs are worked on together, at most 256; each process of the group takes its share.
    """
    part = data if settings.validation_limit is None else data.first(settings.validation_limit)
    share, m = group.share(len(part)), settings.validation_noises or 1
    totals = sums_of(torch.empty(0, device=group.device))
    numbers, seed = torch.arange(share.start, share.stop), settings.stream("validation noise")
    for rows in numbers.split(min(together, _TOGETHER)) if len(numbers) else ():
        x, y = part.images[rows].to(group.device), part.labels[rows].to(group.device)
        copies = noisy_copies(x, rows.to(group.device), settings.sigma or 0.0, seed, 0, m)
        logits = logits_of(model, copies)
        valid = ~torch.isnan(logits).any(-1)
        votes = (F.one_hot(logits.argmax(-1), logits.shape[-1]) * valid[..., None]).sum(1)
        own = votes.gather(1, y[:, None])[:, 0]
        radius = (settings.sigma or 0.0) * torch.special.ndtri((own.double() + 0.5) / (m + 1))
        totals += sums_of(
            x,
            examples=len(x),
            loss=mean_cross_entropy(logits, y).double().sum(),
            errors=(m - own).double().sum() / m,
            smoothed_errors=((votes.argmax(1) != y) | (own == 0)).sum(),
            radius=torch.where(2 * own > m, radius, 0.0).sum(),
        )
    sums = Sums()
    sums.add(group.sum(totals).tolist())
    return sums.measures(robust=False, smoothed=True)
