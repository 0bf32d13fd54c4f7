"""Training: the loop, from the data to the best weights."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from verifix.certify.run import RunInterrupted
from verifix.data import Dataset
from verifix.errors import InvalidType, InvalidValue
from verifix.train.checkpoint import Checkpoint, TrainFolder
from verifix.train.distributed import Group
from verifix.train.landscape import POINTS
from verifix.train.landscape_plan import LandscapePlan
from verifix.train.log import Epoch
from verifix.train.settings import TrainSettings
from verifix.train.trainer import Progress, Trainer, Training, versions
from verifix.train.validation import hold_out

CHECKPOINT_SECONDS = 300.0


def train(
    model: nn.Module,
    data: Dataset,
    settings: TrainSettings,
    *,
    validation: Dataset | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    landscape_every: int | None = None,
    landscape_points: int = POINTS,
    landscape_fresh: bool = False,
    saved: nn.Module | None = None,
    about: Mapping[str, Any] | None = None,
    sources: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[Sequence[Epoch]], None] | None = None,
) -> Training:
    """Train a network against the worst that its bounds allow; with ``method="none"`` by plain cross-entropy; with a
    method for randomized smoothing under noise, see :mod:`verifix.train.smoothing`; or at the points that attacks find,
    see :mod:`verifix.train.adversarial`.

    The order of examples, what is held out, projections and noise follow from ``settings.seed`` and the position alone,
    so that training which was killed and resumed gives the same weights bit for bit (on CPU, with as many threads).
    Where ``torch.distributed`` is initialised, all processes train one network: each takes its share of every batch,
    with gradients of the mean over the whole batch, and the first one writes.

    The network is trained as it is at test time, since bounds are about that: batch norm keeps its stored statistics,
    or has those of clean inputs (``settings.batch_norm``), and dropout does nothing. Under noise and at
    attacked points it is in training mode instead, and may hold operations that no bound knows.

    Args:
        model: a classifier on its device, in the data's floating-point type; its parameters that require gradients are
            trained from what they are, or from what ``settings.initialisation`` draws. Left in eval
            mode, with the best weights.
        data: what to train on, less what ``settings.validation`` holds out.
        settings: how.
        validation: examples to validate on in place of those that would be held out.
        out: the run folder, see :mod:`verifix.train.checkpoint`; nothing is written where it is None.
        resume: go on with the run in ``out``; one that is finished is returned as it is.
        checkpoint_seconds: the time between two checkpoints within an epoch; there is one after every epoch anyway.
        landscape_every: measure the loss landscape before every so many steps, the first one among them, and append a
            line to ``out/landscape.jsonl``, see :mod:`verifix.train.landscape_plan`. Weights do not depend on it. With
            bounds, or with ``method="none"``.
        landscape_points, landscape_fresh: how many multiples of the learning rate, and whether with fresh random draws
            too, see :func:`verifix.train.landscape.landscape`.
        saved: the part of the model whose weights are written; default all of it.
        about: what else to record and to compare on resume, such as the name of the network.
        sources: what else to record and not to compare, such as paths.
        progress: called after every step, in the first process.
        on_epoch: called after every epoch with all of them, in the first process, when its files are written.

    Raises:
        UserError: an operation that is not supported, a network that is no classifier of the data, inputs outside the
            box, an ``out`` that cannot be used; nothing on disk has been changed then.
        TrainingDiverged: the loss, a gradient or a weight is not finite any more; checkpoints stay.
        RunInterrupted: on ``KeyboardInterrupt``, where there is a folder to resume from.

    >>> from verifix.data import load
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> settings = TrainSettings(eps=0.02, box=(0, 1), method="crown-ibp", epochs=3)
    >>> result = train(model, load("digits:train").first(200), settings)
    >>> [epoch.epoch for epoch in result.history], round(result.history[-1].eps, 3)
    ([1, 2, 3], 0.02)
    """
    if not isinstance(settings, TrainSettings):
        raise InvalidType("settings", settings, "verifix.train.TrainSettings")
    if not isinstance(data, Dataset):
        raise InvalidType("data", data, "a verifix.data.Dataset")
    if not checkpoint_seconds >= 0:
        raise InvalidValue("checkpoint_seconds", checkpoint_seconds, "must be at least 0")
    plan: LandscapePlan | None = None
    if landscape_every is not None:
        plan = LandscapePlan(landscape_every, landscape_points, landscape_fresh)
        plan.require(settings, out)
    rest, held_out = (data, validation) if validation is not None else hold_out(data, settings)
    for part in (rest, held_out):
        for x in () if part is None else part.images.split(1000):
            settings.ball().around(x)  # refuses inputs outside the box, before anything is written
    model.eval()
    trainer = Trainer(model, rest, held_out, settings, saved or model)
    group = trainer.group
    known = {
        **settings.to_json(),
        **(about or {}),
        "data": f"{data.name}:{data.split}",
        "data_sha256": data.digest(),
        "examples": len(rest),
        "validation_sha256": None if validation is None else validation.digest(),
        "parameters": sum(parameter.numel() for parameter in trainer.parameters),
        "dtype": str(data.images.dtype).removeprefix("torch."),
        **({} if plan is None else plan.to_json()),
    }
    folder: TrainFolder | None = None

    def enter() -> Checkpoint | None:
        nonlocal folder
        if out is None:
            return None
        environment = _environment(group)
        folder = TrainFolder(out, known, sources=sources or {}, environment=environment, resume=resume)
        return folder.checkpoint

    try:
        checkpoint = group.agree(enter)
        trainer.connect(folder, checkpoint, checkpoint_seconds, plan)
        trainer.run(progress or _silent, on_epoch or _silent)
    except KeyboardInterrupt:
        if folder is None:
            raise
        remedy = f"{len(trainer.history)} of {settings.epochs} epochs are done; run the same with --resume to go on"
        raise RunInterrupted(f"{folder.folder}: {remedy}") from None
    finally:
        if folder is not None:
            folder.close()
    return trainer.result()


def _environment(group: Group) -> dict[str, Any]:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    where = {"device": str(group.device), "processes": group.size, "threads": torch.get_num_threads()}
    return {"started": started, **versions(), "python": platform.python_version(), **where}


def _silent(_: object) -> None:
    """Show nothing."""
