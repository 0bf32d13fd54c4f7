"""Projected gradient descent over any input set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from verifix.errors import InvalidValue
from verifix.sets import InputSet, LpBall

Classifier = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AttackResult:
    """The best point found for each input.

    Attributes:
        success: whether the model's class differs from the label there, ``(n,)``.
        examples: the points, ``(n, *shape)``; each lies in its set, decided in float64.
        margins: ``f_y - max_j f_j`` there, ``(n,)``; negative or zero where the attack succeeded.
    """

    success: Tensor
    examples: Tensor
    margins: Tensor


def pgd(
    model: Classifier,
    y: Tensor,
    inputs: InputSet,
    *,
    steps: int = 40,
    step_size: float = 0.1,
    restarts: int = 1,
    seed: int = 0,
    start: Tensor | None = None,
) -> AttackResult:
    """Projected gradient descent on the margin, untargeted (Madry et al.; thesis, section 2.1.2).

    The first start is the center of each set, the others are random points of it. Each step goes along the steepest
    direction of the set's own norm, then back into the set. Deterministic for a seed.

    Args:
        model: maps ``(n, *shape)`` to logits ``(n, classes)``, differentiably, each input by itself.
        y: labels ``(n,)``.
        inputs: where the examples must lie; its center is the clean input.
        steps: gradient steps per start.
        step_size: length of a step as a fraction of the set's radius, at the first step; it falls linearly to a tenth
            of that.
        restarts: starts per input.
        seed: of the random starts.
        start: points of the sets, ``(n, *shape)``, to start from first; the centers by default.

    Raises:
        InvalidValue: for ``steps`` or ``restarts`` below 1, or a ``step_size`` that is not positive.

    >>> from verifix.sets import Ball
    >>> result = pgd(lambda x: x, torch.tensor([0]), Ball("linf", eps=0.2).around(torch.tensor([[0.5, 0.2]])))
    >>> result.success.tolist(), result.examples
    ([True], tensor([[0.3000, 0.4000]]))
    """
    if steps < 1 or restarts < 1:
        raise InvalidValue("steps, restarts", (steps, restarts), "must be at least 1")
    if not step_size > 0:
        raise InvalidValue("step_size", step_size, "must be positive")
    generator = torch.Generator().manual_seed(seed)
    best = inputs.center.detach().clone()
    best_margin = _margin(model(best).detach(), y)
    for restart in range(restarts):
        x = (
            (inputs.center if start is None else start).detach().clone()
            if restart == 0
            else random_point(inputs, generator)
        )
        for step in range(steps):
            x = x.detach().requires_grad_(True)
            margin = _margin(model(x), y)
            (gradient,) = torch.autograd.grad(margin.sum(), x)
            best, best_margin = _keep(best, best_margin, x.detach(), margin.detach())
            length = step_size * (1 - 0.9 * step / steps)
            x = inputs.project(x.detach() - length * _steepest(inputs, gradient))
        best, best_margin = _keep(best, best_margin, x, _margin(model(x).detach(), y))
    predictions = model(best).detach().argmax(1)
    return AttackResult((predictions != y) & inputs.contains(best), best, best_margin)


def _margin(logits: Tensor, y: Tensor) -> Tensor:
    own = logits.gather(1, y[:, None])[:, 0]
    others = logits.scatter(1, y[:, None], -torch.inf)
    return own - others.amax(1)


def _keep(best: Tensor, best_margin: Tensor, x: Tensor, margin: Tensor) -> tuple[Tensor, Tensor]:
    better = margin < best_margin
    return torch.where(better.reshape(-1, *[1] * (x.dim() - 1)), x, best), torch.where(better, margin, best_margin)


def random_point(inputs: InputSet, generator: torch.Generator) -> Tensor:
    """A point of each set, ``(n, *shape)``: uniform in its hull, then moved into it."""
    lower, upper = inputs.hull()
    noise = torch.rand(lower.shape, generator=generator, dtype=torch.float64).to(lower)
    return inputs.project(lower + noise * (upper - lower))


def _steepest(inputs: InputSet, gradient: Tensor) -> Tensor:
    """A step of the set's radius along which the linear model of the margin grows fastest."""
    if isinstance(inputs, LpBall) and inputs.norm != "linf":
        radius = inputs.eps.to(gradient)
        scaled = gradient * radius
        size = torch.linalg.vector_norm(scaled.flatten(1), dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
        return radius * scaled / size.reshape(-1, *[1] * (gradient.dim() - 1))
    lower, upper = inputs.hull()
    return gradient.sign() * (upper - lower) / 2
