"""What a comparison shows: a line for each cell on stderr, and a table on stdout when all are done."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from verifix.cli.show import EVERY
from verifix.compare import Cell, CellResult, State, Work
from verifix.compare.table import HEADER, SHORT, Results, messages, rows_of_groups

Meter = tuple[Callable[[State], None], Callable[[Cell, CellResult], None]]


@contextmanager
def comparison_meter() -> Iterator[Meter]:
    """A bar for each cell on stderr where that is a terminal, else a plain line about every ten seconds; and in any
    case a line for each cell that is done."""
    if not sys.stderr.isatty():
        yield _plain_meter()
        return
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[where]}"), TimeElapsedColumn())
    bar = Bar(*columns, console=console, transient=True)
    tasks: dict[str, TaskID] = {}

    def show(state: State) -> None:
        if state.cell.name not in tasks:
            tasks[state.cell.name] = bar.add_task(_where(state), total=None, where="")
        where = f"{state.stage}, {state.note}"
        bar.update(tasks[state.cell.name], completed=state.done, total=state.total, where=where)
        bar.start()  # not before: an error that comes first has its line for itself

    def report(cell: Cell, result: CellResult) -> None:
        if cell.name in tasks:
            bar.remove_task(tasks.pop(cell.name))
        console.print(Text(_line(cell, result)))

    try:
        yield show, report
    finally:
        bar.stop()


def _plain_meter() -> Meter:
    last = time.monotonic()

    def show(state: State) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            print(f"{_where(state)}: {state.stage}, {state.note}", file=sys.stderr, flush=True)

    def report(cell: Cell, result: CellResult) -> None:
        print(_line(cell, result), file=sys.stderr, flush=True)

    return show, report


def _where(state: State) -> str:
    return f"{state.number} of {state.cells}, {state.cell.spelled}"


def _line(cell: Cell, result: CellResult) -> str:
    if result.status == "diverged":
        return f"{cell.spelled} diverged: {result.message}"
    standard, attacked, verified = (result.rate(name) or 0.0 for name in ("standard", "attacked", "verified"))
    return f"{cell.spelled}: error {standard:.2%}, under attack {attacked:.2%}, verified {verified:.2%}"


def show_comparison(work: Work, results: Results) -> None:
    """Print the table, and what diverged on stderr."""
    table = Table(title=Text(str(work.folder)), title_justify="left")
    rows = [_cells(row) for row in rows_of_groups(results)]
    table.add_column(SHORT[0], overflow="fold")
    for name, *cells in zip(SHORT[1:], *(row[1:] for row in rows), strict=True):
        lines = [*name.split(), *(line for cell in cells for line in cell.splitlines())]
        table.add_column(name, justify="right", width=max(map(len, lines)))  # so that no number is cut in 80 columns
    for row in rows:
        table.add_row(*map(Text, row))
    table.caption, table.caption_justify = (
        Text(f"all columns, single seeds and notes: {work.folder / 'table.md'}"),
        "left",
    )
    Console().print(table)
    for message in messages(results):
        print(f"verifix: note: {message}", file=sys.stderr)


def _cells(row: Sequence[str]) -> list[str]:
    """What a terminal has room for of a row: deviations below their means, and radii in short."""
    named = dict(zip(HEADER, row, strict=True))
    named["eps"] = f"{float(named['eps']):.4g}"
    return [named[name].replace(" ± ", "\n± ") for name in SHORT]
