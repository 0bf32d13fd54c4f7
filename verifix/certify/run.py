"""Certifying a whole data set into a folder, in steps that a crash cannot undo."""

from __future__ import annotations

import math
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from verifix._version import __version__
from verifix.bounds import Estimator, Method, parse_method
from verifix.bounds.tiles import budget, check_memory
from verifix.certify.cascade import Answers, Cascade
from verifix.certify.certify import certify
from verifix.certify.chance import require_rows, share_delta
from verifix.certify.store import CascadeRecord, ChanceRecord, R, Record, RunStore
from verifix.certify.verdict import Result, Verdict
from verifix.data import Dataset
from verifix.errors import InvalidValue
from verifix.graph import Graph, capture
from verifix.models import fingerprint, probe
from verifix.sets import Ball, InputSet, Union, Wasserstein

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
Summariser = Callable[[list[Record], float, Mapping[str, Any]], dict[str, Any]]


def certify_run(
    model: nn.Module | Sequence[nn.Module],
    data: Dataset,
    ball: Ball | Wasserstein,
    *,
    out: str | Path,
    method: str = "cap",
    estimator: Estimator | None = None,
    batch: int = DEFAULT_BATCH,
    memory: int | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    sources: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
    certifier: Certifier | None = None,
    summariser: Summariser | None = None,
) -> dict[str, Any]:
    """Certify every input of ``data`` and return the summary; a run that was killed continues with ``resume=True``.

    Inputs are decided in fixed chunks ``[0, batch), [batch, 2 * batch), ...`` and a chunk that was cut short is
    computed again as a whole, so the lines of ``results.jsonl`` do not depend on how often the run was interrupted.

    Args:
        model: the network, in eval mode, or several, the stages of a cascade (:class:`verifix.certify.Cascade`); their
            parameters are part of what must be the same on resume.
        data: inputs and labels, of the network's floating-point type; :meth:`Dataset.first` limits them.
        ball: the perturbations, one ball around each input.
        out: the run folder, see :mod:`verifix.certify.store`.
        method, memory: as in :func:`verifix.certify`; ``estimator`` replaces that of the methods.
        settings, sources: what else to record in ``settings.json``: compared on resume, and not compared.
        progress: called after the folder is opened and after every chunk.
        certifier: decides a chunk, ``certifier(x, y, inputs)``, in place of the engine.
        summariser: makes the summary, in place of :func:`summarise`.

    Raises:
        UserError: an operation that is not supported, a network that is no classifier of the data, inputs outside the
            box, an ``out`` that cannot be used; nothing on disk has been changed then.
        RunInterrupted: on ``KeyboardInterrupt``.
    """
    if batch < 1:
        raise InvalidValue("batch", batch, "must be a whole number of at least 1")
    stages = [model] if isinstance(model, nn.Module) else list(model)
    device = next((parameter.device for stage in stages for parameter in stage.parameters()), torch.device("cpu"))
    memory = check_memory(memory, device)
    methods = parse_method(method, estimator)  # refuses names that it does not know
    share_delta(methods)  # refuses estimates
    cascade = None
    if not isinstance(model, nn.Module):
        if not isinstance(ball, Ball):
            raise InvalidValue("norm", ball.norm, "cascades are certified on lp balls only")
        cascade = Cascade(model, ball, methods, memory=memory)
    resolved = dict(settings or {}) | run_settings(model, data, ball, method, estimator, batch)
    # refuses inputs outside the box, all at once and before anything is written
    inputs = (ball if cascade is None else cascade).around(data.images)
    example = data.images[:2].to(device)
    for stage in stages:
        probe(stage, example, data.classes, resolved.get("model"))
    if certifier is None:
        certifier = (
            _engine(stages[0], inputs.select(slice(0, 2)).to(device), methods, memory)
            if cascade is None
            else _by_stages(cascade, example, memory)
        )
    job = _Job(data, inputs, certifier, device, progress or silent)
    where = environment(device, memory)
    with RunStore(out, resolved, Record, sources=sources, environment=where, resume=resume) as store:
        return complete(store, len(data), batch, job.decide, job.show, summariser or summarise)


def complete(
    store: RunStore[R],
    total: int,
    batch: int,
    decide: Callable[[slice], list[R]],
    show: Callable[[list[R], int], None],
    summarise: Callable[[list[R], float, Mapping[str, Any]], dict[str, Any]],
) -> dict[str, Any]:
    """Decide what ``store`` does not hold yet, chunk by chunk, then write its summary and return it.

    Raises:
        RunInterrupted: on ``KeyboardInterrupt``.
    """
    try:
        show(store.records, total)
        while store.decided < total:
            start = store.decided - store.decided % batch
            began = time.perf_counter()
            records = decide(slice(start, min(start + batch, total)))
            store.append(records, time.perf_counter() - began)
            show(store.records, total)
        summary = summarise(store.records, store.seconds(), store.settings)
        store.write_summary(summary)
    except KeyboardInterrupt:
        remedy = f"{store.written()} of {total} inputs are decided; run the same command with --resume to continue"
        raise RunInterrupted(f"{store.folder}: {remedy}") from None
    return summary


@dataclass(frozen=True)
class _Job:
    data: Dataset
    inputs: InputSet
    certifier: Certifier
    device: torch.device
    progress: Callable[[Progress], None]

    def decide(self, part: slice) -> list[Record]:
        """Decide the inputs of one chunk."""
        labels = self.data.labels[part]
        with torch.no_grad():
            x, y = self.data.images[part].to(self.device), labels.to(self.device)
            decided = self.certifier(x, y, self.inputs.select(part).to(self.device))
        columns = (labels.tolist(), decided.predictions.tolist(), decided.verdicts, decided.margin.tolist())
        records = [
            Record(part.start + offset, label, prediction, str(verdict), margin if math.isfinite(margin) else None)
            for offset, (label, prediction, verdict, margin) in enumerate(zip(*columns, strict=True))
        ]
        confidence = decided.confidence if isinstance(decided, Result) else None
        if confidence is not None:
            delta, k, m, counts = confidence.delta, confidence.k, confidence.groups, confidence.estimates.tolist()
            return [
                ChanceRecord(**vars(record), delta=delta, k=k, m=m, estimates=count)
                for record, count in zip(records, counts, strict=True)
            ]
        if not isinstance(decided, Answers):
            return records
        stages = [stage if stage >= 0 else None for stage in decided.stages.tolist()]
        return [CascadeRecord(**vars(record), stage=stage) for record, stage in zip(records, stages, strict=True)]

    def show(self, records: list[Record], total: int) -> None:
        """Say how far the run is."""
        verified = sum(record.verdict == "verified" for record in records)
        self.progress(Progress(len(records), total, verified))


def graph_within(model: nn.Module, example: Tensor, memory: int, methods: tuple[Method, ...]) -> Graph:
    """The graph of a network, for which the budget suffices."""
    graph = capture(model, example)
    _check_budget(graph, example, memory, max(method.estimator.rows_at_once for method in methods))
    return graph


def _engine(model: nn.Module, examples: InputSet, methods: tuple[Method, ...], memory: int) -> Certifier:
    graph = graph_within(model, examples.center, memory, methods)
    require_rows(graph, examples, methods)

    def decide(x: Tensor, y: Tensor, inputs: InputSet) -> Decided:
        return certify(graph, x, y, inputs, method=methods, memory=memory)

    return decide


def _by_stages(cascade: Cascade, example: Tensor, memory: int) -> Certifier:
    for graph in cascade.graphs(example):
        _check_budget(graph, example, memory)

    def decide(x: Tensor, y: Tensor, inputs: InputSet) -> Decided:
        return cascade.certify(x, y)  # in its own balls around x, which the inputs are too

    return decide


def _check_budget(graph: Graph, example: Tensor, memory: int, rows: int = 0) -> None:
    """Refuse a budget that is too small."""
    budget(graph, sorted({example.dtype, torch.float64}, key=str), example.device, memory, rows)


def summarise(records: list[Record], seconds: float, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``summary.json``.

    ``certified_error`` is the fraction of inputs without a certificate for their true label, ``clean_error`` that of
    inputs which the network gets wrong unperturbed: of a cascade the deciding stage, or the last where none decides.

    >>> records = [Record(0, 7, 7, "verified", 1.5), Record(1, 2, 2, "unknown", -0.5)]
    >>> summary = summarise(records, 2.0, {"method": "cap", "norm": "linf", "eps": 0.1})
    >>> summary["n"], summary["clean_error"], summary["certified_error"], summary["verdicts"]
    (2, 0.0, 0.5, {'verified': 1, 'falsified': 0, 'unknown': 1, 'timeout': 0, 'error': 0})
    """
    n = len(records)
    verdicts = dict.fromkeys(("verified", "falsified", "unknown", "timeout", "error"), 0)
    verdicts |= Counter(record.verdict for record in records)
    chances = [record for record in records if isinstance(record, ChanceRecord)]
    by_stages = [record for record in records if isinstance(record, CascadeRecord)]
    cascade = _summary_of_cascade(by_stages, settings["stages"]) if by_stages else {}
    return {
        "n": n,
        "clean_error": sum(record.prediction != record.label for record in records) / n,
        "certified_error": (n - verdicts["verified"]) / n,
        "verdicts": verdicts,
        **cascade,
        **({"confidence": _confidence(chances)} if chances else {}),
        "method": settings["method"],
        "norm": settings["norm"],
        "eps": settings["eps"],
        "seconds": seconds,
        **versions(),
        "settings": dict(settings),
    }


def _confidence(records: Sequence[ChanceRecord]) -> dict[str, Any]:
    """With which probability certificates hold: each by itself, and all of them together.

    What estimates say decides which inputs are verified, so the union bound is over all that might have been.
    """
    verified = [record for record in records if record.verdict == Verdict.VERIFIED]
    tried = [record for record in records if record.estimates and record.verdict != Verdict.FALSIFIED]
    return {
        "delta": max(record.delta for record in records),
        "k": max(record.k for record in records),
        "m": max(record.m for record in records),
        "estimates": sum(record.estimates for record in records),
        "most_estimates": max(record.estimates for record in records),
        "certain": sum(not record.estimates for record in verified),
        "delta_of_all": min(1.0, math.fsum(record.delta for record in tried)),
    }


def _summary_of_cascade(records: Sequence[CascadeRecord], stages: int) -> dict[str, Any]:
    """What the summary of a cascade holds beside the rest.

    Per stage: how many inputs entered it, for how many it certified its own prediction, for how many of these that is
    wrong, and how many it left to the next. ``stagewise_error`` is the fraction that is left at the end or where the
    first stage that certifies its own prediction is wrong: the figure that the literature reports for cascades. It
    lets the clean input choose the stage, so it bounds no adversary's success (``docs/cascades.md``);
    ``certified_error`` does.

    >>> records = [CascadeRecord(0, 7, 7, "verified", 1.5, 0), CascadeRecord(1, 2, 3, "unknown", 0.5, 1)]
    >>> _summary_of_cascade(records, 2)["stagewise_error"], _summary_of_cascade(records, 2)["stages"][0]
    (0.5, {'entered': 2, 'certified': 1, 'certified_wrong': 0, 'left': 1})
    """
    counts, entered = [], len(records)
    for stage in range(stages):
        certified = [record for record in records if record.stage == stage]
        wrong = sum(record.prediction != record.label for record in certified)
        left = entered - len(certified)
        counts.append({"entered": entered, "certified": len(certified), "certified_wrong": wrong, "left": left})
        entered = left
    errors = entered + sum(count["certified_wrong"] for count in counts)
    abstained = sum(record.verdict == Verdict.UNKNOWN for record in records)
    n = len(records)
    return {"stagewise_error": errors / n, "abstained": abstained / n, "stages": counts}


def run_settings(
    model: nn.Module | Sequence[nn.Module],
    data: Dataset,
    ball: Ball | Wasserstein | Union,
    method: str,
    estimator: Estimator | None,
    batch: int,
) -> dict[str, Any]:
    """Everything of the library's arguments that decides results: what must be the same on resume."""
    if isinstance(model, nn.Module):
        network: dict[str, Any] = {"parameters_sha256": fingerprint(model)}
    else:
        network = {"stages": len(model), "parameters_sha256": fingerprint(nn.ModuleList(model))}
    chance = {}
    if estimator is not None and not estimator.exact:
        chance = {"estimator": str(estimator), "delta": estimator.delta, "estimator_seed": estimator.seed}
    return {
        **network,
        **chance,
        "data": f"{data.name}:{data.split}",
        "data_sha256": data.digest(),
        "limit": len(data),
        **ball.settings(),
        "method": method,
        "batch": batch,
        "dtype": str(data.images.dtype).removeprefix("torch."),
    }


def environment(device: torch.device, memory: int) -> dict[str, Any]:
    """What ``sessions.jsonl`` says of a process."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    where = {"device": str(device), "threads": torch.get_num_threads(), "memory": memory}
    return {"started": started, **versions(), "python": platform.python_version(), **where}


def versions() -> dict[str, str]:
    """Which releases decided."""
    return {"verifix": __version__, "torch": torch.__version__}


def silent(progress: Progress) -> None:
    """Show nothing."""
