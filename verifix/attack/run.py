"""Attacks on a whole data set, into a folder that survives a crash."""

from __future__ import annotations

import io
import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from verifix.attack.base import BATCH, Attack, whole
from verifix.attack.evaluate import FOOLED, MISCLASSIFIED, ROBUST, STATUSES, UNDECIDED, Evaluation, by_name, examine
from verifix.attack.evaluate import table as table_of
from verifix.attack.masking import CHECKED, SIGNS, warnings_of
from verifix.attack.unions import WorstOf
from verifix.certify.run import Progress, complete, environment, run_settings, silent, versions
from verifix.certify.store import Decision, RunStore
from verifix.data import Dataset
from verifix.errors import InvalidValue, UserError
from verifix.files import write_bytes
from verifix.models import probe
from verifix.sets import Ball, InputSet, Union, Wasserstein

_QUICK = ("steps", "restarts", "queries", "repeats", "searches")


@dataclass(frozen=True)
class AttackRecord(Decision):
    """What became of one input; see :class:`verifix.attack.Evaluation`.

    ``fooled_by`` is the name of the attack that succeeded, None where none did; ``margin`` that of the best example,
    None where it is not finite; ``distance`` how far this is away where an attack succeeded, else None. ``signs`` are
    those of :data:`verifix.attack.masking.SIGNS` that it shows.
    """

    label: int
    prediction: int
    status: str
    fooled_by: str | None
    margin: float | None
    distance: float | None
    forwards: int
    backwards: int
    signs: list[str]


def attack_run(
    model: nn.Module,
    data: Dataset,
    ball: Ball | Wasserstein | Union,
    attacks: Sequence[Attack] | Mapping[str, Attack],
    *,
    out: str | Path,
    seed: int = 0,
    batch: int = BATCH,
    sanity: bool = False,
    save_examples: bool = False,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    sources: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Evaluate every input of ``data`` as :func:`verifix.attack.evaluate` does and return the summary; a run that was
    killed continues with ``resume=True``.

    Inputs are attacked in fixed chunks ``[0, batch), [batch, 2 * batch), ...`` and a chunk that was cut short is
    attacked again as a whole, so the lines of ``results.jsonl`` do not depend on how often the run was interrupted.

    Args:
        model: the network; its parameters are part of what must be the same on resume.
        data: inputs and labels, of the network's floating-point type.
        ball: the perturbations, one ball, or union of balls, around each input.
        attacks, seed, sanity: as for :func:`verifix.attack.evaluate`.
        out: the run folder, see :mod:`verifix.certify.store`; its lines are :class:`AttackRecord`.
        save_examples: write ``examples.npz`` at the end: ``x`` ``(n, *shape)``, the best examples, ``y``, the labels,
            and ``fooled``; it can be read as a data set. Until then they are in the folder ``examples``.
        settings, sources: what else to record in ``settings.json``: compared on resume, and not compared.
        progress: called after the folder is opened and after every chunk.

    Raises:
        UserError: a network that is no classifier of the data, inputs outside the box, an attack that is not made for
            the ball or the number of classes, an ``out`` that cannot be used; nothing on disk has been changed then.
        RunInterrupted: on ``KeyboardInterrupt``.
    """
    whole("batch", batch, 1)
    named = by_name(attacks)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    inputs = ball.around(data.images)  # refuses inputs outside the box, all at once
    resolved = dict(settings or {}) | _settings(model, data, ball, named, batch)
    resolved |= {"seed": seed, "sanity": sanity, "save_examples": save_examples}
    for count in (1, 2):
        probe(model, data.images[:count].to(device), data.classes, resolved.get("model"), finite=False)
    _rehearse(model, inputs.select(slice(0, 1)).to(device), named, seed)
    parts = _Examples(Path(out), len(data), batch) if save_examples else None

    def decide(part: slice) -> list[AttackRecord]:
        x, y = data.images[part].to(device), data.labels[part].to(device)
        checked = max(0, CHECKED - part.start) if sanity else 0
        sets = inputs.select(part).to(device)
        found = examine(model, x, y, sets, named, seed=seed, batch=batch, checked=checked)
        if parts is not None:
            parts.write(part.start, found.examples, y, found.fooled)
        return _records(found, data.labels[part].tolist(), part.start)

    def show(records: list[AttackRecord], total: int) -> None:
        (progress or silent)(Progress(len(records), total, sum(record.status == ROBUST for record in records)))

    where = {name: value for name, value in environment(device, 0).items() if name != "memory"}
    with RunStore(out, resolved, AttackRecord, sources=sources, environment=where, resume=resume) as store:
        summary = complete(store, len(data), batch, decide, show, summarise_attacks)
        if parts is not None:
            parts.finish()
    for text in summary["warnings"]:
        warnings.warn(text, stacklevel=2)
    return summary


def _settings(
    model: nn.Module, data: Dataset, ball: Ball | Wasserstein | Union, named: Mapping[str, Attack], batch: int
) -> dict[str, Any]:
    """Everything of the arguments that decides results."""
    common = run_settings(model, data, ball, "", None, batch)
    del common["method"]
    attacks = {name: attack.settings() for name, attack in named.items()}
    return {**common, "attack": "+".join(named), "attacks": attacks}


def _rehearse(model: nn.Module, first: InputSet, named: Mapping[str, Attack], seed: int) -> None:
    """Run each attack briefly on one input, so that what it refuses is refused before anything is written."""
    with torch.no_grad():
        answer = model(first.center.detach().clone()).argmax(1)
    for attack in named.values():
        attack.check(first)
        brief = _brief(attack)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            brief(model, first.center, answer, first, seed=seed)


def _brief(attack: Attack) -> Attack:
    """The same with as little to do as possible."""
    if isinstance(attack, WorstOf):
        return replace(attack, attacks=tuple(map(_brief, attack.attacks)))
    with suppress(UserError):  # a setting that others depend on
        return replace(attack, **{field.name: 1 for field in fields(attack) if field.name in _QUICK})
    return attack


def _records(found: Evaluation, labels: list[int], start: int) -> list[AttackRecord]:
    fooled = found.fooled.nonzero()[:, 0]
    distances = torch.full((len(found),), torch.nan, dtype=torch.float64)
    distances[fooled.cpu()] = found.sets.select(fooled).distance(found.examples[fooled]).cpu()
    columns = (
        labels,
        found.predictions.tolist(),
        found.status,
        found.fooled_by.tolist(),
        found.margins.tolist(),
        distances.tolist(),
        found.forwards.tolist(),
        found.backwards.tolist(),
    )
    shown = {name: seen.tolist() for name, seen in found.signs.items()}
    return [
        AttackRecord(
            start + row,
            label,
            prediction,
            status,
            found.attacks[number] if number >= 0 else None,
            margin if math.isfinite(margin) else None,
            distance if math.isfinite(distance) else None,
            forwards,
            backwards,
            [name for name in SIGNS if shown[name][row]],
        )
        for row, (label, prediction, status, number, margin, distance, forwards, backwards) in enumerate(
            zip(*columns, strict=True)
        )
    ]


def summarise_attacks(records: list[AttackRecord], seconds: float, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``summary.json``.

    ``robust_accuracy`` is the fraction of inputs that are answered rightly and withstood every attack: the worst case
    of each input over all attacks, with what is ``undecided`` counted against the model. ``attacks`` says how many
    inputs each attack was tried on, and how many it left; ``forwards`` and ``backwards`` are sums over inputs.
    ``warnings`` are what signs of gradient masking call for.

    >>> records = [
    ...     AttackRecord(0, 7, 7, "robust", None, 0.5, None, 9, 6, []),
    ...     AttackRecord(1, 2, 2, "fooled", "pgd", -0.1, 0.3, 6, 3, ["random"]),
    ... ]
    >>> summary = summarise_attacks(records, 2.0, {"attack": "pgd", "attacks": ["pgd"], "norm": "linf", "eps": 0.3})
    >>> summary["clean_accuracy"], summary["robust_accuracy"], summary["attacks"], summary["forwards"]
    (1.0, 0.5, [{'attack': 'pgd', 'before': 2, 'after': 1}], 15)
    """
    n, names = len(records), list(settings["attacks"])
    outcomes = Counter(record.status for record in records)
    numbers = [
        -1 if record.fooled_by is None else names.index(record.fooled_by)
        for record in records
        if record.status != MISCLASSIFIED
    ]
    rows = table_of(names, numbers)
    return {
        "n": n,
        "clean_accuracy": sum(record.status != MISCLASSIFIED and record.prediction >= 0 for record in records) / n,
        "robust_accuracy": outcomes[ROBUST] / n,
        "undecided": outcomes[UNDECIDED],
        "outcomes": {status: outcomes[status] for status in STATUSES},
        "attack": settings["attack"],
        "attacks": [{"attack": name, "before": before, "after": after} for name, before, after in rows],
        "norm": settings["norm"],
        "eps": settings["eps"],
        "most_distance": max((record.distance or 0.0 for record in records if record.status == FOOLED), default=None),
        "forwards": sum(record.forwards for record in records),
        "backwards": sum(record.backwards for record in records),
        "warnings": warnings_of(Counter(sign for record in records for sign in record.signs), n),
        "seconds": seconds,
        **versions(),
        "settings": dict(settings),
    }


@dataclass(frozen=True)
class _Examples:
    """The examples of a run: one file for each chunk, and in the end a single one."""

    folder: Path
    total: int
    batch: int

    def write(self, start: int, x: Tensor, y: Tensor, fooled: Tensor) -> None:
        """Keep those of a chunk."""
        path = self._part(start)
        path.parent.mkdir(exist_ok=True)
        self._save(path, [array.cpu().numpy() for array in (x, y, fooled)])

    def finish(self) -> None:
        """Put all into one file."""
        paths = [self._part(start) for start in range(0, self.total, self.batch)]
        whole = self.folder / "examples.npz"
        missing = [path for path in paths if not path.is_file()]
        if missing and not whole.is_file():
            raise InvalidValue(
                "out", missing[0], "is missing, so examples.npz cannot be written: choose another folder"
            )
        if not missing:
            self._save(whole, [np.concatenate(arrays) for arrays in zip(*map(self._read, paths), strict=True)])
        for path in paths:
            path.unlink(missing_ok=True)
        with suppress(OSError):
            (self.folder / "examples").rmdir()

    def _part(self, start: int) -> Path:
        return self.folder / "examples" / f"{start:09d}.npz"

    @staticmethod
    def _read(path: Path) -> list[np.ndarray]:
        with np.load(path) as archive:
            return [archive[name] for name in ("x", "y", "fooled")]

    @staticmethod
    def _save(path: Path, arrays: list[np.ndarray]) -> None:
        stream = io.BytesIO()
        np.savez(stream, **dict(zip(("x", "y", "fooled"), arrays, strict=True)))  # type: ignore[arg-type]
        write_bytes(path, stream.getvalue())
