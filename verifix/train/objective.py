"""What one step minimises, as a module, so that gradients of several processes can meet in it."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verifix.bounds import Engine
from verifix.errors import InvalidValue
from verifix.graph import INPUT, Graph
from verifix.operations import Affine, Movement
from verifix.train.batch_norm import CleanStatistics
from verifix.train.log import sums_of
from verifix.train.loss import bounded_logits
from verifix.train.regularisers import regularisation
from verifix.train.settings import TrainSettings


class Objective(nn.Module):
    """The summed loss of a batch, with what is measured on the way: of certified training, for each example,

        kappa CE(f(x)) + (1 - kappa) CE(beta s + (1 - beta) s_ibp) + penalties,

    where ``s`` are the robust logits of the method, ``s_ibp`` those of interval bounds, and beta and kappa go with eps
    (Zhang et al., "Towards stable and efficient training of verifiably robust neural networks"; Lee et al., equation
    3). At radius 0 every bound is the value itself, and nothing is bounded: all of it is the plain cross-entropy.

    DistributedDataParallel acts on ``forward``; the bounds go through the graph and not through the model's own
    ``forward``, so the model is a submodule here. Networks are trained as they are at test time, which is what bounds
    are about: dropout does nothing, and batch norm uses stored statistics and leaves them alone, or those of the clean
    inputs, which are constants for bounds.
    """

    def __init__(
        self, model: nn.Module, graph: Graph, settings: TrainSettings, clean: CleanStatistics, *, every_parameter: bool
    ) -> None:
        super().__init__()
        self.model, self.graph, self.settings, self.clean = model, graph, settings, clean
        self.every_parameter = every_parameter

    def forward(self, x: Tensor, y: Tensor, eps: float, seed: int) -> tuple[Tensor, Tensor]:
        """The sum of losses to differentiate, and the sums of :meth:`verifix.train.log.Sums.add` in float64."""
        if not len(x):  # a process without a share of a small batch
            return anchor(self.model, x), sums_of(x)
        with self.clean.of(x) as values:
            known = values.get(self.graph.output)
            if self.settings.standard or not eps:
                logits, engine = self.graph(x) if known is None else known, None
                worst = logits - logits.gather(1, y[:, None])
                loss = F.cross_entropy(logits, y, reduction="sum")
            else:
                logits, worst, loss, engine = self._bounded(x, y, eps, seed, known)
            penalty = self.penalties(eps, engine)
        if penalty is not None:
            loss = loss + len(x) * penalty
        objective = loss.detach()
        if self.every_parameter:
            loss = loss + anchor(self.model, x)
        plain, robust = measure(logits, y), robust_measure(worst.detach(), y)
        named = {"loss": plain[0], "errors": plain[1], "robust_loss": robust[0], "robust_errors": robust[1]}
        return loss, sums_of(x, examples=len(x), objective=objective, **named)

    def _bounded(
        self, x: Tensor, y: Tensor, eps: float, seed: int, known: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Engine]:
        """Clean logits (or those that are known) and mixed ones, the weighted sum of their losses, and the engine that
        knows hidden bounds."""
        settings = self.settings
        beta, kappa = settings.beta_at(eps), settings.kappa_at(eps)
        sets = settings.ball(eps).around(x)
        with _recorded(kappa < 1 or settings.regulariser > 0):  # which is about the bounds of hidden units
            worst, engine = bounded_logits(self.graph, y, sets, settings.methods(seed), beta=beta)
            robust = F.cross_entropy(worst, y, reduction="sum")
        with _recorded(kappa > 0):
            logits = engine.clean() if known is None else known
            plain = F.cross_entropy(logits, y, reduction="sum")
        if kappa in (0, 1):  # no products with zero: a loss without weight may be infinite
            return logits, worst, plain if kappa else robust, engine
        return logits, worst, kappa * plain + (1 - kappa) * robust, engine

    def penalties(self, eps: float, engine: Engine | None) -> Tensor | None:
        """What is added to the mean loss of the batch: terms that are no sums over examples; None where there is none.

        A batch may be worked through in parts, by several processes: each adds its penalty times its number of
        examples, so that a term of the weights alone counts once, and one of the part is averaged over all of them.

        Args:
            engine: of the bounds at this eps, where there are any: it knows those of hidden units.
        """
        settings, terms = self.settings, []
        if settings.l1:
            sizes = [parameter.abs().sum() for parameter in self.model.parameters() if parameter.dim() > 1]
            terms += [settings.l1 * torch.stack(sizes).sum()] if sizes else []
        weight = settings.regulariser_at(eps)
        if weight and engine is not None:
            terms.append(weight * regularisation(engine, settings.regulariser_tolerance))
        return torch.stack(terms).sum() if terms else None


def _recorded(wanted: bool) -> AbstractContextManager[None]:
    """Whether gradients are recorded in what follows, where they are at all."""
    return nullcontext() if wanted else torch.no_grad()


def require_linear_end(graph: Graph) -> None:
    """Refuse a network whose last operation is not linear: margins are bounded by merging them with that.

    Raises:
        InvalidValue: naming the node.
    """
    name = graph.output
    while name != INPUT and isinstance(graph.node(name).operation, Movement):  # which computes nothing
        (name,) = graph.node(name).inputs
    if name == INPUT or isinstance(graph.node(name).operation, Affine):
        return
    remedy = "bounds need a linear one at the end, such as torch.nn.Linear, to train with: leave the node out"
    raise InvalidValue("model", f"a network whose last operation, node {name!r}, is not linear", remedy)


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
