"""Certifying a whole data set into a folder, in steps that a crash cannot undo."""

from __future__ import annotations

import math
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from verifix._version import __version__
from verifix.bounds import parse_method
from verifix.bounds.tiles import budget, check_memory
from verifix.certify.certify import certify
from verifix.certify.store import Record, RunStore
from verifix.data import Dataset
from verifix.errors import InvalidValue
from verifix.graph import capture
from verifix.models import fingerprint, probe
from verifix.sets import Ball, InputSet

DEFAULT_BATCH = 50


@dataclass(frozen=True)
class Progress:
    """How far a run is: ``done`` of ``total`` inputs are decided and ``verified`` of them hold a certificate."""

    done: int
    total: int
    verified: int


class RunInterrupted(KeyboardInterrupt):
    """The run was stopped by the user; what it has decided is on disk and the message says how to go on."""


class Decided(Protocol):
    """What a certifier returns for ``n`` inputs."""

    @property
    def verdicts(self) -> np.ndarray: ...
    @property
    def margin(self) -> Tensor: ...
    @property
    def predictions(self) -> Tensor: ...


Certifier = Callable[[Tensor, Tensor, InputSet], Decided]


def certify_run(
    model: nn.Module,
    data: Dataset,
    ball: Ball,
    *,
    out: str | Path,
    method: str = "cap",
    batch: int = DEFAULT_BATCH,
    memory: int | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    sources: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
    certifier: Certifier | None = None,
) -> dict[str, Any]:
    """Certify every input of ``data`` and return the summary; a run that was killed continues with ``resume=True``.

    Inputs are decided in fixed chunks ``[0, batch), [batch, 2 * batch), ...`` and a chunk that was cut short is
    computed again as a whole, so the lines of ``results.jsonl`` do not depend on how often the run was interrupted.

    Args:
        model: the network, in eval mode; its parameters are part of what must be the same on resume.
        data: inputs and labels, of the network's floating-point type; :meth:`Dataset.first` limits them.
        ball: the perturbations, one ball around each input.
        out: the run folder, see :mod:`verifix.certify.store`.
        method, memory: as in :func:`verifix.certify`.
        settings, sources: what else to record in ``settings.json``: compared on resume, and not compared.
        progress: called after the folder is opened and after every chunk.
        certifier: decides a chunk, ``certifier(x, y, inputs)``, in place of the engine.

    Raises:
        UserError: an operation that is not supported, a network that is no classifier of the data, inputs outside the
            box, an ``out`` that cannot be used; nothing on disk has been changed then.
        RunInterrupted: on ``KeyboardInterrupt``.
    """
    if batch < 1:
        raise InvalidValue("batch", batch, "must be a whole number of at least 1")
    resolved = dict(settings or {}) | _settings(model, data, ball, method, batch)
    parse_method(method)  # refuses names that it does not know
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    memory = check_memory(memory, device)
    inputs = ball.around(data.images)  # refuses inputs outside the box, all at once and before anything is written
    probe(model, data.images[:2].to(device), data.classes, resolved.get("model"))
    certifier = certifier or _engine(model, data.images[:2].to(device), method, memory)
    job = _Job(data, inputs, certifier, batch, device, progress or _silent)
    with RunStore(out, resolved, sources=sources, environment=_environment(device, memory), resume=resume) as store:
        try:
            job.decide(store)
            summary = summarise(store.records, store.seconds(), store.settings)
            store.write_summary(summary)
        except KeyboardInterrupt:
            remedy = (
                f"{store.decided} of {len(data)} inputs are decided; run the same command with --resume to continue"
            )
            raise RunInterrupted(f"{store.folder}: {remedy}") from None
    return summary


@dataclass(frozen=True)
class _Job:
    data: Dataset
    inputs: InputSet
    certifier: Certifier
    batch: int
    device: torch.device
    progress: Callable[[Progress], None]

    def decide(self, store: RunStore) -> None:
        """Decide what ``store`` does not hold yet, chunk by chunk."""
        total = len(self.data)
        self._show(store, total)
        while store.decided < total:
            start = store.decided - store.decided % self.batch
            began = time.perf_counter()
            records = self._chunk(slice(start, min(start + self.batch, total)))
            store.append(records, time.perf_counter() - began)
            self._show(store, total)

    def _chunk(self, part: slice) -> list[Record]:
        labels = self.data.labels[part]
        with torch.no_grad():
            x, y = self.data.images[part].to(self.device), labels.to(self.device)
            decided = self.certifier(x, y, self.inputs.select(part).to(self.device))
        columns = (labels.tolist(), decided.predictions.tolist(), decided.verdicts, decided.margin.tolist())
        return [
            Record(part.start + offset, label, prediction, str(verdict), margin if math.isfinite(margin) else None)
            for offset, (label, prediction, verdict, margin) in enumerate(zip(*columns, strict=True))
        ]

    def _show(self, store: RunStore, total: int) -> None:
        verified = sum(record.verdict == "verified" for record in store.records)
        self.progress(Progress(store.decided, total, verified))


def _engine(model: nn.Module, example: Tensor, method: str, memory: int) -> Certifier:
    graph = capture(model, example)
    budget(
        graph, sorted({example.dtype, torch.float64}, key=str), example.device, memory
    )  # refuses one that is too small

    def decide(x: Tensor, y: Tensor, inputs: InputSet) -> Decided:
        return certify(graph, x, y, inputs, method=method, memory=memory)

    return decide


def summarise(records: list[Record], seconds: float, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``summary.json``.

    ``certified_error`` is the fraction of inputs without a certificate for their true label, ``clean_error`` that of
    inputs which the network gets wrong unperturbed.

    >>> records = [Record(0, 7, 7, "verified", 1.5), Record(1, 2, 2, "unknown", -0.5)]
    >>> summary = summarise(records, 2.0, {"method": "cap", "norm": "linf", "eps": 0.1})
    >>> summary["n"], summary["clean_error"], summary["certified_error"], summary["verdicts"]
    (2, 0.0, 0.5, {'verified': 1, 'falsified': 0, 'unknown': 1, 'timeout': 0, 'error': 0})
    """
    n = len(records)
    verdicts = dict.fromkeys(("verified", "falsified", "unknown", "timeout", "error"), 0)
    verdicts |= Counter(record.verdict for record in records)
    return {
        "n": n,
        "clean_error": sum(record.prediction != record.label for record in records) / n,
        "certified_error": (n - verdicts["verified"]) / n,
        "verdicts": verdicts,
        "method": settings["method"],
        "norm": settings["norm"],
        "eps": settings["eps"],
        "seconds": seconds,
        **_versions(),
        "settings": dict(settings),
    }


def _settings(model: nn.Module, data: Dataset, ball: Ball, method: str, batch: int) -> dict[str, Any]:
    return {
        "parameters_sha256": fingerprint(model),
        "data": f"{data.name}:{data.split}",
        "data_sha256": data.digest(),
        "limit": len(data),
        "norm": ball.norm,
        "eps": _plain(ball.eps),
        "box": None if ball.box is None else [_plain(side) for side in ball.box],
        "method": method,
        "batch": batch,
        "dtype": str(data.images.dtype).removeprefix("torch."),
    }


def _plain(value: float | Tensor) -> Any:
    return value.tolist() if isinstance(value, Tensor) else float(value)


def _environment(device: torch.device, memory: int) -> dict[str, Any]:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    where = {"device": str(device), "threads": torch.get_num_threads(), "memory": memory}
    return {"started": started, **_versions(), "python": platform.python_version(), **where}


def _versions() -> dict[str, str]:
    return {"verifix": __version__, "torch": torch.__version__}


def _silent(progress: Progress) -> None:
    """Show nothing."""
