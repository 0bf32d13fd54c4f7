"""Training a cascade: every stage on what the stages before it do not certify (thesis, algorithm 4).

=================================  ===================================================================================
``stage-0``, ``stage-1``, ...      the run folder of each stage, see :mod:`verifix.train.checkpoint`
``stage-i/left.json``              which examples stage ``i`` and those before it do not certify, by number
``cascade.json``                   the cascade so far, for ``verifix certify``; see :mod:`verifix.cascade_file`
=================================  ===================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from verifix._version import __version__
from verifix.cascade_file import Stage, cascade_content
from verifix.certify import Cascade
from verifix.certify.run import RunInterrupted
from verifix.data import Dataset
from verifix.errors import InvalidValue
from verifix.files import refuse_other_run, write_bytes, write_json
from verifix.models import fingerprint
from verifix.train.distributed import Group
from verifix.train.log import Epoch
from verifix.train.loop import CHECKPOINT_SECONDS, train
from verifix.train.settings import TrainSettings
from verifix.train.trainer import Progress, Training
from verifix.train.validation import hold_out

_TOGETHER = 500
"""Inputs that are certified together."""


@dataclass(frozen=True)
class Errors:
    """How the cascade does on examples, up to a stage: fractions of errors as in a run's ``summary.json``."""

    examples: int
    stagewise_error: float
    certified_error: float


@dataclass(frozen=True)
class Left:
    """What no stage up to some stage certifies: numbers of examples to train on and to validate on.

    An example is certified by a stage that proves its own prediction on the ball around it, right or wrong: that is how
    a cascade decides which stage is asked.
    """

    train: list[int]
    validation: list[int]
    errors: Errors | None


@dataclass(frozen=True)
class StageTraining:
    """One stage: how many examples it was trained on, how that went, and what is left after it.

    ``left`` counts examples to train on; ``errors`` are those of the cascade up to this stage on all that was held out,
    None where nothing was.
    """

    number: int
    examples: int
    training: Training
    left: int
    errors: Errors | None


@dataclass(frozen=True)
class CascadeTraining:
    """What :func:`train_cascade` gives: the networks with their best weights, and how it went."""

    models: tuple[nn.Module, ...]
    stages: tuple[StageTraining, ...]


def train_cascade(
    make: Callable[[int], nn.Module],
    data: Dataset,
    settings: TrainSettings,
    *,
    stages: int,
    least: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    saved: Callable[[nn.Module], nn.Module] | None = None,
    stage: Stage | None = None,
    about: Mapping[str, Any] | None = None,
    sources: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[int, Sequence[Epoch]], None] | None = None,
    on_stage: Callable[[StageTraining], None] | None = None,
) -> CascadeTraining:
    """Train networks one after the other, each on the examples that those before it leave uncertified.

    What is left is found by certificates at ``eps_test``, with nothing estimated and rounding accounted, among the
    examples to train on and among those held out alike. The first stage is trained exactly as :func:`train` would.

    Args:
        make: the network of a stage, by number, as it begins; on its device, in the data's floating-point type.
        data, settings: as in :func:`train`; each stage has a seed of its own, which follows from ``settings.seed``.
        stages: how many at most.
        least: stop when fewer examples than this are left; default one batch.
        out: the folder of the whole, see above; nothing is written where it is None.
        resume, checkpoint_seconds, about, sources, progress: as in :func:`train`.
        saved: the part of a stage's network whose weights are written; default all of it.
        stage: what every stage is called in ``cascade.json``, which is not written where this is None; its weights are
            filled in.
        on_epoch: called after every epoch with the number of the stage and its epochs so far, in the first process.
        on_stage: called after every stage, in the first process.

    Raises:
        UserError, TrainingDiverged, RunInterrupted: as in :func:`train`.

    >>> from verifix.data import load
    >>> settings = TrainSettings(eps=0.02, box=(0, 1), method="crown-ibp", epochs=2)
    >>> network = lambda number: nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> result = train_cascade(network, load("digits:train").first(200), settings, stages=2, least=1)
    >>> [stage.examples for stage in result.stages][0], result.stages[1].examples == result.stages[0].left
    (180, True)
    """
    if isinstance(stages, bool) or not isinstance(stages, int) or stages < 1:
        raise InvalidValue("stages", stages, "must be a whole number of at least 1")
    if not settings.bounded:
        raise InvalidValue("method", settings.method, "a cascade is made of what bounds certify: name some")
    rest, held_out = hold_out(data, settings)
    if held_out is not None and settings.validation_limit is not None:
        held_out = held_out.first(settings.validation_limit)
    least = settings.batch if least is None else least
    folder = None if out is None else Path(out)
    if folder is not None:
        refuse_other_run(folder, "cascade.json")
    models: list[nn.Module] = []
    done: list[StageTraining] = []
    left = Left(list(range(len(rest))), list(range(0 if held_out is None else len(held_out))), None)
    for number in range(stages):
        model = make(number)
        chosen = rest.select(torch.tensor(left.train))
        validation = (
            held_out.select(torch.tensor(left.validation)) if held_out is not None and left.validation else None
        )
        where = None if folder is None else folder / f"stage-{number}"
        training = train(
            model,
            chosen,
            _settings_of(settings, number, validation),
            validation=validation,
            out=where,
            resume=resume,
            checkpoint_seconds=checkpoint_seconds,
            saved=None if saved is None else saved(model),
            about={**(about or {}), "stage": number},
            sources=sources,
            progress=progress,
            on_epoch=None if on_epoch is None else _with_number(on_epoch, number),
        )
        models.append(model)
        group = Group.current(next(model.parameters()).device)
        examples = len(left.train)
        left = _left(models, rest, held_out, left, settings, group, where)
        done.append(StageTraining(number, examples, training, len(left.train), left.errors))
        if group.first and folder is not None and stage is not None:
            _write_cascade(folder, stage, done, settings)
        if group.first and on_stage is not None:
            on_stage(done[-1])
        if len(left.train) < max(least, 1):
            break
    return CascadeTraining(tuple(models), tuple(done))


def _settings_of(settings: TrainSettings, number: int, validation: Dataset | None) -> TrainSettings:
    seed = settings.stream("stage", number) if number else settings.seed
    if validation is None:  # nothing was held out, or all of that is certified: the last weights are the best
        return replace(settings, seed=seed, validation=0.0, patience=None)
    return replace(settings, seed=seed)


def _with_number(on_epoch: Callable[[int, Sequence[Epoch]], None], number: int) -> Callable[[Sequence[Epoch]], None]:
    return lambda history: on_epoch(number, history)


def _left(
    models: Sequence[nn.Module],
    rest: Dataset,
    held_out: Dataset | None,
    before: Left,
    settings: TrainSettings,
    group: Group,
    where: Path | None,
) -> Left:
    """What the last model leaves of what those before it left; read from its folder where it was found before."""
    weights = fingerprint(models[-1])
    known = group.agree(lambda: None if where is None else _read_left(where / "left.json", weights))
    if known is not None:
        return known
    try:
        cascade = Cascade(models[-1:], settings.validation_ball, settings.exact_methods)
        numbers = torch.tensor(before.train)
        train_left = numbers[_stages(cascade, rest.select(numbers), group)[0] < 0].tolist()
        validation_left: list[int] = []
        errors: Errors | None = None
        if held_out is not None:
            whole = Cascade(models, settings.validation_ball, settings.exact_methods)
            stages, predictions, labels = _stages(whole, held_out, group)
            validation_left = (stages < 0).nonzero()[:, 0].tolist()
            wrong = (stages < 0) | (predictions != held_out.labels)
            count = len(held_out)
            errors = Errors(count, int(wrong.sum()) / count, int((labels != held_out.labels).sum()) / count)
    except KeyboardInterrupt:
        if where is None:
            raise
        remedy = "the stage is trained; run the same with --resume to go on"
        raise RunInterrupted(f"{where}: {remedy}") from None
    left = Left(train_left, validation_left, errors)
    if where is not None and group.first:
        write_bytes(where / "left.json", (json.dumps({"weights": weights, **asdict(left)}) + "\n").encode())
    return left


def _stages(cascade: Cascade, data: Dataset, group: Group) -> tuple[Tensor, Tensor, Tensor]:
    """Stages, predictions and labels that a cascade gives inputs; every process decides its share."""
    share = group.share(len(data))
    found = torch.zeros(3, len(data), dtype=torch.int64, device=group.device)
    for start in range(share.start, share.stop, _TOGETHER):
        part = slice(start, min(start + _TOGETHER, share.stop))
        answers = cascade.predict(data.images[part].to(group.device))
        found[:, part] = torch.stack([answers.stages, answers.predictions, answers.labels])
    stages, predictions, labels = group.sum(found).cpu()
    return stages, predictions, labels


def _read_left(path: Path, weights: str) -> Left | None:
    """What a run that was stopped has found before, for these very weights."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("weights") == weights:
            errors = content.pop("errors")
            return Left(**content, errors=None if errors is None else Errors(**errors))
    return None


def _write_cascade(folder: Path, stage: Stage, done: Sequence[StageTraining], settings: TrainSettings) -> None:
    named = [replace(stage, weights=f"stage-{entry.number}/best.safetensors") for entry in done]
    counts = [
        {"examples": entry.examples, "left": entry.left, "validation": entry.errors and asdict(entry.errors)}
        for entry in done
    ]
    about = {**settings.to_json(), "history": counts, "verifix": __version__, "torch": torch.__version__}
    write_json(folder / "cascade.json", cascade_content(named, about))
