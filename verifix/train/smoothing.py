"""Training under noise, for randomized smoothing.

For an example ``(x, y)`` and noise ``e_1 ... e_k ~ N(0, sigma^2 I)``, with ``F`` the softmax of the network and
``G(x) = (F(x + e_1) + ... + F(x + e_k)) / k``, a step minimises the mean over its batch of

=============  =========================================================================================================
``gaussian``   ``L(x) = (CE(F(x + e_1), y) + ... + CE(F(x + e_k), y)) / k`` (Cohen et al. 2019 with ``k = 1``)
``adre``       ``L(x) + lambda log(G_r(x) + floor)``, ``r`` the runner-up ``argmax over c != y of G_c(x)``: equations 5
               to 8 of "Regularized Training and Tight Certification for Randomized Smoothed Classifier with Provable
               Robustness", which has no floor; the same noise in both terms
``adre-adv``   the same at a point that projected gradient ascent finds for
               ``CE(G(x'), y) - lambda CE(G(x'), r) = -log G_y(x') + lambda log(G_r(x') + floor)`` on the l2 ball of
               ``attack_eps`` around ``x`` (algorithm 1, equations 12 and 13)
``smoothadv``  ``L`` at a point that it finds for ``-log G_y(x')`` (Salman et al. 2019)
=============  =========================================================================================================

The noise is the same in all steps of an attack and in the loss at the point that it finds. It is that of the example's
number in the data and of the epoch, so that it depends on no order, batch or number of processes. Without the floor the
penalty of ``adre`` has no lower bound: driving one probability to zero would outweigh every error. With it the
objective is at least ``lambda log(floor)``, since ``L >= 0`` and ``G_r >= 0``; and the gradient of the penalty,
``lambda G_r / (G_r + floor)`` times that of ``log G_r``, fades out where ``G_r`` is far below the floor.

Nothing here needs bounds: every ``nn.Module`` that gives logits can be trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from verifix.bounds.tiles import HEAP, TRAINED_WEIGHTS, check_memory
from verifix.errors import InvalidValue
from verifix.kernels.noise import add_noise
from verifix.smooth.noise.base import Purpose
from verifix.train.log import sums_of
from verifix.train.objective import anchor
from verifix.train.settings import TrainSettings
from verifix.train.smoothing_attack import attack

BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
TRAINED_COPIES = 3
"""How often what autograd keeps is there at the peak: itself, gradients, and room for an operation to work in."""


def mean_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each input, ``(n,)``: the mean over its noisy copies' ``logits`` ``(n, k, classes)``."""
    n, k, classes = logits.shape
    each = F.cross_entropy(logits.reshape(n * k, classes), y.repeat_interleave(k), reduction="none")
    return each.reshape(n, k).mean(1)


def log_mean_softmax(logits: Tensor) -> Tensor:
    """``log G`` ``(n, classes)``, from the logits ``(n, k, classes)`` of noisy copies; finite where those are.

    >>> log_mean_softmax(torch.zeros(1, 3, 2)).exp()
    tensor([[0.5000, 0.5000]])
    """
    return logits.log_softmax(-1).logsumexp(1) - math.log(logits.shape[1])


def adre_penalty(log_mean: Tensor, y: Tensor, floor: float) -> Tensor:
    """``log(G_r + floor)`` of each input, ``(n,)``, from ``log G``: minus the cross-entropy of the runner-up ``r``.

    The runner-up is the likeliest class but ``y``, the first of several. At least ``log(floor)``.

    >>> adre_penalty(torch.tensor([[0.7, 0.1, 0.2]]).log(), torch.tensor([0]), 1e-6).exp()
    tensor([0.2000])
    """
    others = log_mean.scatter(1, y[:, None], -math.inf)
    runner_up = log_mean.gather(1, others.argmax(1, keepdim=True))[:, 0]
    return torch.logaddexp(runner_up, runner_up.new_tensor(floor).log())


def noisy_copies(x: Tensor, inputs: Tensor, sigma: float, seed: int, start: int, count: int) -> Tensor:
    """Copies ``(n, count, *shape)`` of inputs with noise by their numbers in the data; samples from ``start`` on.

    Differentiable in ``x``; the same arguments give the same noise.
    """
    return add_noise(
        x, inputs, law="gaussian", scale=sigma, seed=seed, purpose=Purpose.TRAINING, start=start, count=count
    )


def logits_of(model: nn.Module, copies: Tensor) -> Tensor:
    """Logits ``(n, k, classes)`` of copies ``(n, k, *shape)``."""
    logits: Tensor = model(copies.flatten(0, 1)).reshape(*copies.shape[:2], -1)
    return logits


class NoisyObjective(nn.Module):
    """The summed loss of a batch under noise, with what is measured on the way.

    The network is in training mode here, see :func:`training_mode`, and in eval mode during attacks; what dropout draws
    follows from the seed, the step and the first example of those that are worked on together.
    """

    def __init__(self, model: nn.Module, settings: TrainSettings, *, every_parameter: bool) -> None:
        super().__init__()
        self.model, self.settings, self.every_parameter = model, settings, every_parameter
        self.sigma, self.noises = settings.sigma or 0.0, settings.noises or 1
        self.weight, self.floor = settings.adre_weight or 0.0, settings.probability_floor or 0.0
        self.seed, self.direction_seed = settings.stream("noise"), settings.stream("directions")

    def forward(self, x: Tensor, y: Tensor, inputs: Tensor, eps: float, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """The sum of losses to differentiate, and the sums of :meth:`verifix.train.log.Sums.add` in float64.

        Args:
            x, y: inputs and labels.
            inputs: their numbers in the data, ``(n,)``.
            eps: the radius of the attack; 0 for none.
            epoch, step: where this is in training.
        """
        if not len(x):  # a process without a share of a small batch
            return anchor(self.model, x), sums_of(x)
        if eps > 0:
            x = self._attack(x, y, inputs, eps, epoch)
        seed = self.settings.stream("dropout", epoch, step, int(inputs[0]))
        with training_mode(self.model, copies=len(x) * self.noises), own_random_state(seed, x.device):
            logits = logits_of(self.model, self._copies(x, inputs, epoch))
        loss = mean_cross_entropy(logits, y)
        total = self._penalised(loss, logits, y).sum()
        errors = (logits.argmax(-1) != y[:, None]).double().mean(1).sum()
        measured = {"loss": loss.detach().double().sum(), "errors": errors, "objective": total.detach().double()}
        if self.every_parameter:
            total = total + anchor(self.model, x)
        return total, sums_of(x, examples=len(x), **measured)

    def attack_objective(self, logits: Tensor, y: Tensor) -> Tensor:
        """What the attack makes large, ``(n,)``: ``-log G_y``, plus the penalty of ``adre`` in ``adre-adv``."""
        return self._penalised(-log_mean_softmax(logits).gather(1, y[:, None])[:, 0], logits, y)

    def _penalised(self, loss: Tensor, logits: Tensor, y: Tensor) -> Tensor:
        if not self.weight:
            return loss
        return loss + self.weight * adre_penalty(log_mean_softmax(logits), y, self.floor)

    def _copies(self, x: Tensor, inputs: Tensor, epoch: int) -> Tensor:
        return noisy_copies(x, inputs, self.sigma, self.seed, epoch * self.noises, self.noises)

    def _attack(self, x: Tensor, y: Tensor, inputs: Tensor, eps: float, epoch: int) -> Tensor:
        settings, steps = self.settings, self.settings.attack_steps or 1
        self.model.eval()

        def direction(rows: Tensor, step: int) -> Tensor:
            zero = torch.zeros_like(x[rows])
            return noisy_copies(zero, inputs[rows], 1.0, self.direction_seed, epoch * steps + step, 1)[:, 0]

        return attack(
            lambda at: self.attack_objective(logits_of(self.model, self._copies(at, inputs, epoch)), y),
            x,
            eps=eps,
            step=(settings.attack_step or 0.0) * eps / (settings.attack_eps or eps),
            steps=steps,
            box=settings.box,
            direction=direction,
        )


@contextmanager
def training_mode(model: nn.Module, copies: int) -> Iterator[None]:
    """Put a network in training mode, and in eval mode afterwards.

    Batch norm whose parameters are frozen keeps its statistics. A single copy has no statistics of its own: it is
    worked on with those that are stored, in eval mode.
    """
    model.train(copies > 1)
    if copies > 1:
        for module in model.modules():
            if isinstance(module, BATCH_NORM) and _frozen(module):
                module.eval()
    try:
        yield
    finally:
        model.eval()


@contextmanager
def own_random_state(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from ``seed`` what torch's own generators are asked for, and leave those as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def statistics(model: nn.Module) -> list[Tensor]:
    """What batch norm changes while it trains."""
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORM) and not _frozen(module)]
    return [buffer for module in norms for buffer in module.buffers(recurse=False)]


def _frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters(recurse=False))
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def inputs_at_once(model: nn.Module, example: Tensor, settings: TrainSettings) -> int:
    """How many inputs of a training step can be worked on together, each with all of its copies, within the budget.

    What autograd keeps is counted on the first of ``example``, in eval mode.

    Raises:
        InvalidValue: a budget that one input would exceed, or a sigma that is out of all proportion.
    """
    total = check_memory(settings.memory, example.device)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in own:
            kept[address] = tensor  # held, so that nothing else gets its address meanwhile
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        first = torch.zeros(1, dtype=torch.int64, device=example.device)
        noisy = settings.smoothing
        output = model(noisy_copies(example[:1], first, settings.sigma or 0.0, 0, 0, 2)[0] if noisy else example)
    copy = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / len(output)
    copy += 2 * example[0].numel() * example.element_size() + output[0].numel() * output.element_size()
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    room = total - HEAP - TRAINED_WEIGHTS * weights
    needed = math.ceil(TRAINED_COPIES * copy * settings.copies)
    if room < needed:
        remedy = f"a training step needs at least {total - room + needed} bytes for the copies of one input"
        raise InvalidValue("memory", total, remedy)
    return room // needed
