"""One cell: train a network, certify it, attack it, count.

==========================  ==========================================================================================
``train``                   the run folder of training, see :mod:`verifix.train.checkpoint`
``certify``, ``own``        those of certification by all bounds, and by the bound that training went by
``attack``                  that of the attack
``cell.json``               ``settings`` of the cell and its ``result``, written when all is done
==========================  ==========================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from verifix.attack.run import AttackRecord, attack_run
from verifix.bounds import parse_method
from verifix.bounds.tiles import check_memory
from verifix.certify.run import Progress, certify_run, graph_within
from verifix.certify.store import Record, read_records
from verifix.compare.certifier import by_cost
from verifix.compare.result import CellResult, count_errors
from verifix.compare.settings import Cell, Comparison
from verifix.data import Dataset
from verifix.errors import InvalidValue
from verifix.files import require_same_settings, write_json
from verifix.models import fingerprint
from verifix.process_memory import forget_peak
from verifix.train import Epoch, Training, TrainingDiverged, train
from verifix.train import Progress as TrainProgress

RESULT = "cell.json"
OF_TESTS = ("certify_method", "certify_batch", "attack", "attack_batch", "attack_seed")
"""The settings of a comparison that decide what is done to a network once it is trained."""


@dataclass(frozen=True)
class State:
    """Where a comparison stands: ``done`` of ``total`` of a ``stage`` of the ``number``-th of ``cells``."""

    cell: Cell
    number: int
    cells: int
    stage: str
    done: int
    total: int
    note: str


@dataclass(frozen=True, kw_only=True)
class Work:
    """What all cells of a comparison share.

    Args:
        make: the network as it begins, by seed, on its device; the same for each call with the same seed.
        data: what to train on, less what training holds out; ``test`` is looked at once, by the network it chose.
        saved: the part of a network whose weights are written.
        memory: byte budget of certification.
        about, sources: what to record in every run folder, compared on resume and not.
        landscape: the arguments ``landscape_every`` and so on of training; errors do not depend on them.
        on_trained: called when the training of a cell is done, with all its epochs.
    """

    comparison: Comparison
    make: Callable[[int], nn.Module]
    data: Dataset
    test: Dataset
    folder: Path
    saved: Callable[[nn.Module], nn.Module] = field(default=lambda model: model)
    memory: int | None = None
    checkpoint_seconds: float = 300.0
    about: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, Any] = field(default_factory=dict)
    landscape: Mapping[str, Any] = field(default_factory=dict)
    on_trained: Callable[[Cell, Sequence[Epoch]], None] | None = None

    def settings_of(self, cell: Cell) -> dict[str, Any]:
        """What decides the result of a cell, as JSON values."""
        of_all = {name: value for name, value in self.comparison.to_json().items() if name in OF_TESTS}
        return {**cell.settings.to_json(), "eps_certified": cell.eps, **of_all, **self.about}

    def result_of(self, cell: Cell) -> CellResult | None:
        """What a cell that is done has found; None of one that is not.

        Raises:
            InvalidValue: the file cannot be read, or is of other settings.
        """
        path = self.folder / cell.name / RESULT
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            settings, result = content["settings"], CellResult.from_json(content["result"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InvalidValue(
                "out", path, f"cannot be read ({error}): remove it, and the cell is done again"
            ) from None
        require_same_settings(path.parent, settings, json.loads(json.dumps(self.settings_of(cell))))
        return result


def run_cell(work: Work, cell: Cell, show: Callable[[str, int, int, str], None]) -> CellResult:
    """Do what is left of a cell, from where it was stopped, and write its result.

    Args:
        show: called with a stage, how much of it is done, how much there is, and a note.

    Raises:
        CertificateBroken: the attack broke a certificate.
        UserError, RunInterrupted: as those of training, certification and attack.
    """
    folder = work.folder / cell.name
    model = start(work, cell)
    device = next(model.parameters()).device
    own_peak = forget_peak(device)
    result = CellResult(cell.method, cell.eps, cell.settings.eps, cell.seed, "done", peak_is_own=own_peak)
    try:
        training = _train(work, cell, model, folder, show)
    except TrainingDiverged as error:
        result = replace(result, status="diverged", message=" ".join(str(error).split()))
    else:
        result = _after_training(result, training, model)
        result = _test(work, cell, model, folder, result, show)
    write_json(folder / RESULT, {"settings": work.settings_of(cell), "result": result.to_json()})
    return result


def start(work: Work, cell: Cell) -> nn.Module:
    """The network of a cell as it begins: by its seed alone, whatever its method."""
    torch.manual_seed(cell.seed)
    return work.make(cell.seed)


def _train(
    work: Work, cell: Cell, model: nn.Module, folder: Path, show: Callable[[str, int, int, str], None]
) -> Training:
    def progress(now: TrainProgress) -> None:
        done = (now.epoch - 1) * now.steps + now.step
        show("train", done, now.epochs * now.steps, f"epoch {now.epoch}/{now.epochs}, loss {now.loss:.4g}")

    training = train(
        model,
        work.data,
        cell.settings,
        out=folder / "train",
        resume=True,
        checkpoint_seconds=work.checkpoint_seconds,
        saved=work.saved(model),
        about=work.about,
        sources=work.sources,
        progress=progress,
        **work.landscape,
    )
    if work.on_trained is not None:
        work.on_trained(cell, training.history)
    return training


def _after_training(result: CellResult, training: Training, model: nn.Module) -> CellResult:
    costs, best = [epoch.cost for epoch in training.history], training.best
    return replace(
        result,
        best_epoch=best.epoch,
        epochs=len(training.history),
        validation=None if best.validation is None else best.to_json()["validation"],
        training_seconds=sum(cost["seconds"] for cost in costs),
        validation_seconds=sum(cost["validation_seconds"] for cost in costs),
        peak_memory=int(max(cost["peak_memory"] for cost in costs)),
        parameters_sha256=fingerprint(model),
    )


def _test(
    work: Work,
    cell: Cell,
    model: nn.Module,
    folder: Path,
    result: CellResult,
    show: Callable[[str, int, int, str], None],
) -> CellResult:
    """The test set, once: certify it by all bounds and by training's own, attack it, and count."""
    comparison, ball = work.comparison, cell.settings.ball(cell.eps)
    device = next(model.parameters()).device
    memory = check_memory(work.memory, device)
    common: dict[str, Any] = {"resume": True, "settings": dict(work.about), "sources": work.sources}

    def meter(stage: str, what: str) -> Callable[[Progress], None]:
        return lambda now: show(stage, now.done, now.total, f"{now.verified / max(now.done, 1):.2%} {what}")

    def certify_by(name: str, method: str) -> tuple[list[Record], float]:
        methods = parse_method(method)
        graph = graph_within(model, work.test.images[:2].to(device), memory, methods)
        summary = certify_run(
            model,
            work.test,
            ball,
            out=folder / name,
            method=method,
            batch=comparison.certify_batch,
            memory=memory,
            certifier=by_cost(graph, methods, memory),
            progress=meter(name, "verified"),
            **common,
        )
        return read_records(folder / name, Record)[0], summary["seconds"]

    own: list[Record] | None = None
    own_seconds: float | None = None
    if cell.own_method is not None:
        own, own_seconds = certify_by("own", cell.own_method)
    certified, seconds = certify_by("certify", comparison.certify_method)
    summary = attack_run(
        model,
        work.test,
        ball,
        {"pgd": comparison.attack()},
        out=folder / "attack",
        seed=comparison.seed,
        batch=comparison.attack_batch,
        progress=meter("attack", "robust"),
        **common,
    )
    attacked = read_records(folder / "attack", AttackRecord)[0]
    return replace(
        result,
        errors=count_errors(cell.name, certified, own, attacked),
        own_method=cell.own_method,
        own_seconds=own_seconds,
        certification_seconds=seconds,
        attack_seconds=summary["seconds"],
    )
