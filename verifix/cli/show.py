"""What a run shows: progress on stderr, and a table on stdout when it is done."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from verifix.certify.run import Progress

EVERY = 10.0


@contextmanager
def progress_meter(command: str = "certify", found: str = "verified") -> Iterator[Callable[[Progress], None]]:
    """A bar on stderr where that is a terminal, else a plain line about every ten seconds.

    Args:
        command: stands in front of the bar.
        found: what the verified inputs are called.
    """
    if not sys.stderr.isatty():
        yield _plain_meter(found)
        return
    columns = (TextColumn(command), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    bar = Bar(*columns, TextColumn("{task.fields[verified]}"), console=Console(stderr=True), transient=True)
    task = bar.add_task("", total=None, verified="")

    def show(progress: Progress) -> None:
        bar.update(task, completed=progress.done, total=progress.total, verified=_fraction(progress, found))
        bar.start()  # not before: an error that comes first has its line for itself

    try:
        yield show
    finally:
        bar.stop()


@contextmanager
def stages_meter() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr for each stage of a command, where that is a terminal, else a plain line at its end.

    What it gives is called with the stage, how much of it is done, and how much there is.
    """
    if not sys.stderr.isatty():
        yield lambda what, done, total: print(f"{what}: done", file=sys.stderr, flush=True) if done == total else None
        return
    with Bar(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        yield show


def _plain_meter(found: str) -> Callable[[Progress], None]:
    last = time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            print(
                f"{progress.done} of {progress.total} decided, {_fraction(progress, found)}",
                file=sys.stderr,
                flush=True,
            )

    return show


def _fraction(progress: Progress, found: str) -> str:
    return f"{progress.verified / max(progress.done, 1):.2%} {found}"


def show_summary(summary: Mapping[str, Any], out: str, note: str = "") -> None:
    """Print the table of a finished certification."""
    rows = {
        "clean error": f"{summary['clean_error']:.2%}",
        "certified error": f"{summary['certified_error']:.2%}",
        **_rows_of_cascade(summary),
        **_rows_of_confidence(summary),
        **{verdict: str(count) for verdict, count in summary["verdicts"].items() if count},
    }
    show_table(summary, perturbation_of(summary), rows, out, note)


def perturbation_of(summary: Mapping[str, Any]) -> str:
    """The ball of a run, in words."""
    if summary["norm"] == "union":
        return "union of " + ", ".join(f"{ball['norm']} {ball['eps']:.6g}" for ball in summary["settings"]["members"])
    return f"{summary['norm']} ball of radius {summary['eps']:.6g}{_transport(summary['settings'])}"


def _transport(settings: Mapping[str, Any]) -> str:
    """What else there is to say of a Wasserstein ball."""
    if settings["norm"] != "wasserstein":
        return ""
    where = "flow" if settings["window"] is None else f"{settings['window']} x {settings['window']}"
    return f" ({settings['mass']} mass), {settings['ground']}, {where}, {settings['variant']}"


def show_table(
    summary: Mapping[str, Any], perturbation: str, rows: Mapping[str, str], out: str, note: str = ""
) -> None:
    """Print the table of a finished run: what every summary has, and some rows of its own."""
    settings, n = summary["settings"], summary["n"]
    box = settings["box"]
    within = f" within [{box[0]:g}, {box[1]:g}]" if box else ""
    everything = {
        "perturbation": f"{perturbation}{within}",
        "method": ", ".join([summary["method"], *([settings["estimator"]] if "estimator" in settings else [])]),
        "inputs": f"{n} ({note})" if note else str(n),
        **rows,
        "seconds": f"{summary['seconds']:.1f} ({summary['seconds'] / n:.3f} per input)",
        "results": out,
    }
    show_rows(f"{settings['model']} on {settings['data']}", everything)


def show_rows(title: str, rows: Mapping[str, str]) -> None:
    """Print names and values as a table."""
    table = Table(title=Text(title), title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    Console().print(table)


def _rows_of_cascade(summary: Mapping[str, Any]) -> dict[str, str]:
    """What a cascade's summary has beside the rest."""
    if "stagewise_error" not in summary:
        return {}
    rows = {
        f"stage {number}": f"{stage['entered']} entered, {stage['certified']} certified "
        f"({stage['certified_wrong']} wrong), {stage['left']} left"
        for number, stage in enumerate(summary["stages"])
    }
    return {
        "stagewise error": f"{summary['stagewise_error']:.2%} (as published; the clean input chooses the stage)",
        "abstained": f"{summary['abstained']:.2%}",
        **rows,
    }


def _rows_of_confidence(summary: Mapping[str, Any]) -> dict[str, str]:
    """What the summary has beside the rest where certificates may fail."""
    if "confidence" not in summary:
        return {}
    found = summary["confidence"]
    groups = f", m = {found['m']}" if found["m"] > 1 else ""
    return {
        "confidence": f"each certificate holds with probability at least {1 - found['delta']:.6g}, all together with "
        f"{1 - found['delta_of_all']:.6g}; {found['certain']} hold surely",
        "estimates": f"{found['estimates']}, at most {found['most_estimates']} for one input, k = {found['k']}{groups}",
    }
