"""What one step minimises, as a module, so that gradients of several processes can meet in it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verifix.graph import Graph
from verifix.train.log import sums_of
from verifix.train.loss import robust_logits
from verifix.train.settings import TrainSettings


class Objective(nn.Module):
    """The summed loss of a batch, robust or plain, with what is measured on the way.

    DistributedDataParallel acts on ``forward``; the bounds go through the graph and not through the model's own
    ``forward``, so the model is a submodule here. Networks are trained as they are at test time, which is what bounds
    are about: batch norm uses its stored statistics and leaves them alone, dropout does nothing.
    """

    def __init__(self, model: nn.Module, graph: Graph, settings: TrainSettings, *, every_parameter: bool) -> None:
        super().__init__()
        self.model, self.graph, self.settings = model, graph, settings
        self.every_parameter = every_parameter

    def forward(self, x: Tensor, y: Tensor, eps: float, seed: int) -> tuple[Tensor, Tensor]:
        """The sum of losses to differentiate, and the sums of :meth:`verifix.train.log.Sums.add` in float64."""
        if not len(x):  # a process without a share of a small batch
            return anchor(self.model, x), sums_of(x)
        if self.settings.standard:
            logits = self.graph(x)
            loss, robust = F.cross_entropy(logits, y, reduction="sum"), x.new_zeros(2)
            plain = measure(logits, y)
        else:
            sets = self.settings.ball(eps).around(x)
            worst = robust_logits(self.graph, y, sets, self.settings.methods(seed))
            loss = F.cross_entropy(worst, y, reduction="sum")
            robust = robust_measure(worst.detach(), y)
            with torch.no_grad():
                plain = measure(self.graph(x), y)
        if self.every_parameter:
            loss = loss + anchor(self.model, x)
        named = {"loss": plain[0], "errors": plain[1], "robust_loss": robust[0], "robust_errors": robust[1]}
        return loss, sums_of(x, examples=len(x), **named)


def anchor(model: nn.Module, like: Tensor) -> Tensor:
    """Zero, but a function of every parameter: each process must have a gradient for each."""
    total = like.new_zeros(())
    for parameter in model.parameters():
        if parameter.requires_grad:
            total = total + 0.0 * parameter.sum()
    return total


def measure(logits: Tensor, y: Tensor) -> Tensor:
    """Summed cross-entropy and number of errors, in float64."""
    logits = logits.detach()
    loss = F.cross_entropy(logits, y, reduction="sum").double()
    return torch.stack([loss, (logits.argmax(1) != y).sum().double()])


def robust_measure(worst: Tensor, y: Tensor) -> Tensor:
    """The same for robust logits: an input counts as an error unless every other logit lies below the label's."""
    loss = F.cross_entropy(worst, y, reduction="sum").double()
    others = worst.scatter(1, y[:, None], -math.inf)
    return torch.stack([loss, (~(others < 0).all(1)).sum().double()])
