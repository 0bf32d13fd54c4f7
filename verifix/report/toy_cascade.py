"""A cascade of two small networks on points that one of them cannot certify all (thesis, figure 3.17)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from verifix.attack import attack_cascade
from verifix.certify import Cascade
from verifix.report.boundary import BoundaryPanel, class_grid
from verifix.report.toy import ToySettings, toy_points, untrained_network
from verifix.sets import Ball
from verifix.train import TrainSettings, train_cascade

STAGES = 2


@dataclass(frozen=True)
class ToyCascade:
    """What the cascade certifies.

    Attributes:
        stages: the deciding stage of each point, -1 for none, ``(n,)``.
        alone: which points the first stage certifies as their label by itself, ``(n,)``.
        certified: which the cascade does, ``(n,)``; see ``docs/cascades.md``.
        broken: certificates that an attack on the whole cascade broke: any number but zero is a bug in verifix.
    """

    stages: Tensor
    alone: Tensor
    certified: Tensor
    broken: int


def toy_cascade(settings: ToySettings, progress: Callable[[int, int], None]) -> tuple[ToyCascade, list[BoundaryPanel]]:
    """Train the cascade, certify and attack it; a panel for each stage, with the points that it is asked.

    A box counts as certified where the whole cascade certifies it: the stages up to the deciding one must agree.
    """
    data = toy_points(settings.points, settings.cascade_separation, settings.seed)
    steps = settings.cascade_steps
    how = TrainSettings(
        eps=settings.eps,
        method=settings.method,
        epochs=steps,
        batch=len(data),
        lr=settings.cascade_lr,
        eps_start=0.0,
        eps_ramp=steps / 2,
        validation=0,
        seed=settings.seed,
    )
    trained = train_cascade(
        lambda number: untrained_network(settings.cascade_widths, settings.seed + number),
        data,
        how,
        stages=STAGES,
        least=1,
        on_epoch=lambda number, history: progress(number * steps + len(history), STAGES * steps),
    )
    if len(trained.models) < STAGES:  # nothing was left
        progress(STAGES * steps, STAGES * steps)
    models = [model.double() for model in trained.models]
    data, ball = data.to(torch.float64), Ball("linf", settings.eps)
    cascade = Cascade(models, ball, settings.method)
    result = cascade.certify(data.images, data.labels)
    alone = Cascade(models[:1], ball, settings.method).certify(data.images, data.labels)
    attack = attack_cascade(cascade, data.images, steps=20, restarts=2, seed=settings.seed)
    found = ToyCascade(result.stages, alone.verified, result.verified, int(attack.success.sum()))

    side = (-1.25 * settings.eps, 1 + 1.25 * settings.eps)
    panels = []
    for number, model in enumerate(models):
        asked = (result.stages >= number) | (result.stages < 0)
        mine = result.stages == number
        right = int((mine & (result.predictions == data.labels)).sum())
        so_far = int((result.verified & (result.stages <= number)).sum())
        title = (
            f"stage {number}: asked for {int(asked.sum())} points, certifies {right} as labelled\n"
            f"the cascade so far: {so_far} of {len(data)} points certified"
        )
        certified = (mine & result.verified)[asked]
        grid = class_grid(model, side)
        panels.append(BoundaryPanel(title, side, grid, data.images[asked], data.labels[asked], settings.eps, certified))
    return found, panels
