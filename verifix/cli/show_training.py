"""What training shows: progress on stderr, and a table on stdout when it is done."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from verifix.cli.show import EVERY
from verifix.train import Measures, Progress, Training, TrainSettings


@contextmanager
def training_meter() -> Iterator[Callable[[Progress], None]]:
    """A bar on stderr where that is a terminal, else a plain line about every ten seconds."""
    if not sys.stderr.isatty():
        yield _plain_meter()
        return
    columns = (TextColumn("{task.fields[where]}"), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[state]}"))
    bar = Bar(*columns, *times, console=Console(stderr=True), transient=True)
    task = bar.add_task("", total=None, where="train", state="")

    def show(progress: Progress) -> None:
        done = (progress.epoch - 1) * progress.steps + progress.step
        where = f"epoch {progress.epoch}/{progress.epochs}"
        bar.update(task, completed=done, total=progress.epochs * progress.steps, where=where, state=_state(progress))
        bar.start()  # not before: an error that comes first has its line for itself

    try:
        yield show
    finally:
        bar.stop()


def _plain_meter() -> Callable[[Progress], None]:
    last = time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            where = f"epoch {progress.epoch} of {progress.epochs}, step {progress.step} of {progress.steps}"
            print(f"{where}, {_state(progress)}", file=sys.stderr, flush=True)

    return show


def _state(progress: Progress) -> str:
    eps = f"eps {progress.eps:.4g}, " if progress.eps else ""
    return f"{eps}loss {progress.loss:.4g}"


def show_training(result: Training, settings: TrainSettings, args: argparse.Namespace) -> None:
    """Print the table of finished training, and how to certify what it gave."""
    best, last = result.best, result.history[-1]
    rows = {
        "perturbation": _perturbation(settings),
        "method": settings.method + ("" if settings.estimator == "exact" else f", {settings.estimator}"),
        **_weights(settings),
        "epochs": f"{last.epoch}, stopped early" if result.stopped_early else str(last.epoch),
        "best epoch": str(best.epoch),
        "training": _errors(best.train),
        **({} if best.validation is None else {f"validation ({best.validation.examples})": _errors(best.validation)}),
        "seconds": f"{sum(epoch.cost['seconds'] + epoch.cost['validation_seconds'] for epoch in result.history):.1f}",
        **_landscape(result, args),
        "weights": str(Path(args.out) / "best.safetensors"),
    }
    table = Table(title=Text(f"{args.model} on {args.data}"), title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    Console().print(table)


def _landscape(result: Training, args: argparse.Namespace) -> dict[str, str]:
    """What measuring the landscape has cost, beside training."""
    if args.landscape_every is None:
        return {}
    logged = sum(epoch.cost["landscape_seconds"] for epoch in result.history)
    trained = sum(epoch.cost["seconds"] for epoch in result.history)
    count = -(-result.history[-1].steps // args.landscape_every)
    beside = f"{logged:.1f} s of logging beside {trained:.1f} s of training"
    return {"landscape": f"{Path(args.out) / 'landscape.jsonl'}: {count} measurements, {beside}"}


def _perturbation(settings: TrainSettings) -> str:
    if settings.bounded:
        test = "" if settings.eps_test is None else f", validation {settings.eps_test:.6g}"
        return f"{settings.norm} ball of radius {settings.eps:.6g}{test}{_box(settings)}"
    if settings.union is not None:
        return f"union of balls {settings.union}{_factor(settings)}{_box(settings)}"
    if settings.by_examples:
        return f"{settings.norm} ball of radius {settings.eps:.6g}{_box(settings)}, where an attack goes"
    if not settings.smoothing:
        return "none"
    copies = "1 copy" if settings.noises == 1 else f"{settings.noises} copies"
    noise = f"Gaussian noise of sigma {settings.sigma:g}, {copies} of each example"
    if not settings.adversarial:
        return noise
    return f"{noise}, around points within l2 distance {settings.attack_eps:g}{_box(settings)} that an attack finds"


def _weights(settings: TrainSettings) -> dict[str, str]:
    """Those of the terms of certified training that are not as usual, from the start to the end."""
    given = {"beta": (settings.beta, (1.0, 1.0)), "kappa": (settings.kappa, (0.0, 0.0))}
    shown = {name: f"{value[0]:g} to {value[1]:g}" for name, (value, usual) in given.items() if value != usual}
    return shown | ({"l1": f"{settings.l1:g}"} if settings.l1 else {})


def _factor(settings: TrainSettings) -> str:
    return "" if settings.eps == 1 else f", radii times {settings.eps:g}"


def _box(settings: TrainSettings) -> str:
    return f" within [{settings.box[0]:g}, {settings.box[1]:g}]" if settings.box else ""


def _errors(measures: Measures) -> str:
    if measures.estimated_radius is not None:
        votes = f"error of votes {measures.smoothed_error:.2%}, radius (estimated) {measures.estimated_radius:.4f}"
        return f"noisy error {measures.error:.2%}, {votes}"
    if measures.noisy:
        return f"noisy error {measures.error:.2%}"
    robust = "" if measures.robust_error is None else f", robust error {measures.robust_error:.2%}"
    return f"error {measures.error:.2%}{robust}"
