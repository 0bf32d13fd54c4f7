"""Adversarial training: at the points that an attack finds.

A step minimises the mean over its batch of the cross-entropy at

================  ======================================================================================================
``fgsm``          the point that one step from a random point of the ball reaches (thesis, algorithm 7; Wong, Rice and
                  Kolter 2020): :class:`verifix.attack.UniformFGSM`
``pgd``           the worst point that projected gradient descent from a random one sees (thesis, algorithm 5; Madry et
                  al. 2018): :class:`verifix.attack.PGD`
``msd``           the worst point that multi steepest descent over a union of balls sees (thesis, algorithm 9; the best
                  over all steps, as in its authors' programs): :class:`verifix.attack.MultiSteepestDescent`
``worst``         of the points that ``pgd`` finds in each ball of a union the one with the largest cross-entropy
                  (thesis, equation 5.31): :class:`verifix.attack.WorstOf`
``augmentation``  all of these, their mean (thesis, equation 5.32)
================  ======================================================================================================

The network is in eval mode while it is attacked: batch norm uses its stored statistics and does not see the attack's
own points. It is in training mode at the points that are found. What is random in an attack depends on the seed, the
epoch and the example's values. Every ``nn.Module`` that gives logits can be trained.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verifix.attack import PGD, Attack, MultiSteepestDescent, UniformFGSM, WorstOf, augmentation
from verifix.data import Dataset
from verifix.sets import Union
from verifix.train.distributed import Group
from verifix.train.log import Measures, Sums, sums_of
from verifix.train.objective import anchor, measure
from verifix.train.settings import TrainSettings
from verifix.train.smoothing import own_random_state, training_mode

VALIDATION_STEPS = 20
"""The least that validation attacks with; more where training itself does."""
_TOGETHER = 256


def attack_of(settings: TrainSettings) -> Attack:
    """The attack of a training method; of ``augmentation`` that on each ball."""
    steps, step = settings.attack_steps or 1, settings.attack_step or 1.0
    if settings.method == "fgsm":
        return UniformFGSM(relative_step_size=step)
    pgd = PGD(steps=steps, relative_step_size=step)
    if settings.method == "worst":
        return WorstOf(attacks=(pgd,), loss="cross-entropy")
    if settings.method == "msd":
        return MultiSteepestDescent(steps=steps, relative_step_sizes=(step,) * _members(settings))
    return pgd


def validation_attack(settings: TrainSettings) -> Attack:
    """PGD, on each ball of a union by itself, whatever the method: so that methods can be compared, and a network that
    has only learned to withstand its own attack is found out."""
    steps = max(VALIDATION_STEPS, settings.attack_steps or 1)
    pgd = PGD(steps=steps)
    return WorstOf(attacks=(pgd,)) if settings.union is not None else pgd


def adversarial_examples(
    model: nn.Module, x: Tensor, y: Tensor, settings: TrainSettings, eps: float, seed: int
) -> Tensor:
    """Points ``(m n, *shape)`` for inputs ``(n, *shape)``; ``m`` is 1, but for ``augmentation`` the number of balls."""
    threat, attack = settings.threat(eps), attack_of(settings)
    if settings.method == "augmentation" and isinstance(threat, Union):
        found = augmentation(model, x, y, threat, (attack,), seed=seed, stop=False, batch=len(x))
        return torch.cat([result.examples for result in found])
    return attack(model, x, y, threat.around(x), seed=seed, stop=False, batch=len(x)).examples


class AdversarialObjective(nn.Module):
    """The summed loss of a batch at the points that an attack finds, with what is measured on the way."""

    def __init__(self, model: nn.Module, settings: TrainSettings, *, every_parameter: bool) -> None:
        super().__init__()
        self.model, self.settings, self.every_parameter = model, settings, every_parameter

    def forward(self, x: Tensor, y: Tensor, inputs: Tensor, eps: float, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """The sum of losses to differentiate, and the sums of :meth:`verifix.train.log.Sums.add` in float64.

        Args:
            x, y: inputs and labels.
            inputs: their numbers in the data, ``(n,)``.
            eps: the radius of the attack, or the factor of the radii; 0 for none.
            epoch, step: where this is in training.
        """
        if not len(x):  # a process without a share of a small batch
            return anchor(self.model, x), sums_of(x)
        points, settings = x, self.settings
        if eps > 0:
            seed = settings.stream("attack", epoch)
            points = adversarial_examples(self.model, x, y, settings, eps, seed)
        each = len(points) // len(x)
        seed = settings.stream("dropout", epoch, step, int(inputs[0]))
        with training_mode(self.model, copies=len(points)), own_random_state(seed, x.device):
            logits = self.model(points)
        loss = F.cross_entropy(logits, y.repeat(each), reduction="sum") / each
        errors = (logits.argmax(1) != y.repeat(each)).sum().double() / each
        with torch.no_grad():
            plain = measure(self.model(x), y)
        named = {"loss": plain[0], "errors": plain[1]}
        robust = {"robust_loss": loss.detach().double(), "robust_errors": errors}
        if self.every_parameter:
            loss = loss + anchor(self.model, x)
        return loss, sums_of(x, examples=len(x), **named, **robust)


def evaluate_attacked(
    model: nn.Module, data: Dataset, settings: TrainSettings, group: Group, *, together: int = _TOGETHER
) -> Measures:
    """How a network, in eval mode, does at inputs and at the worst points that :func:`validation_attack` finds in the
    balls of the full radius around them, the same at each call.

    An input is a robust error where it is misclassified itself, where a point was found that is, and where the attack
    was blind: its gradients were all zero, or an answer was not finite. It chooses a model and proves nothing.

    Args:
        together: how many inputs are worked on together, at most 256; each process of the group takes its share.
    """
    part = data if settings.validation_limit is None else data.first(settings.validation_limit)
    share = group.share(len(part))
    totals = sums_of(torch.empty(0, device=group.device))
    attack, seed = validation_attack(settings), settings.stream("validation attack")
    rows = torch.arange(share.start, share.stop)
    for some in rows.split(min(together, _TOGETHER)) if len(rows) else ():
        x, y = part.images[some].to(group.device), part.labels[some].to(group.device)
        found = attack(model, x, y, settings.threat().around(x), seed=seed, batch=len(x))
        with torch.no_grad():
            plain, worst = measure(model(x), y), measure(model(found.examples), y)
        errors = (~found.withstood).sum()
        totals += sums_of(
            x, examples=len(x), loss=plain[0], errors=plain[1], robust_loss=worst[0], robust_errors=errors
        )
    sums = Sums()
    sums.add(group.sum(totals).tolist())
    return sums.measures(robust=True)


def _members(settings: TrainSettings) -> int:
    threat = settings.threat()
    return len(threat.members) if isinstance(threat, Union) else 1
