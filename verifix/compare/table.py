"""The table of a comparison, for people."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from verifix.compare.result import CellResult
from verifix.compare.settings import Cell

HEADER = (
    "method", "eps", "eps_train", "seed", "standard %", "PGD %", "verified %", "own bound %", "best epoch",
    "training s", "s / epoch", "certification s", "peak MiB",
)  # fmt: skip
SHORT = ("method", "eps", "standard %", "PGD %", "verified %", "own bound %", "s / epoch")
"""The columns that a terminal has room for."""
Results = Mapping[Cell, CellResult | None]


def rows_of_groups(results: Results) -> list[list[str]]:
    """One row for each method and radius: of several seeds their means, each with its standard deviation."""
    groups: dict[tuple[str, float], list[Cell]] = {}
    for cell in results:
        groups.setdefault((cell.method, cell.eps), []).append(cell)
    return [_row(cells, [results[cell] for cell in cells]) for cells in groups.values()]


def rows_of_cells(results: Results) -> list[list[str]]:
    """One row for each cell."""
    return [_row([cell], [result]) for cell, result in results.items()]


def markdown(results: Results, title: str, notes: Sequence[str]) -> str:
    """The table as a document: groups, and single cells where there are several seeds; ``notes`` below."""
    parts = [f"# {title}", _table(rows_of_groups(results))]
    if len({cell.seed for cell in results}) > 1:
        parts += ["Single seeds:", _table(rows_of_cells(results))]
    if any(result is not None and not result.peak_is_own for result in results.values()):
        notes = [*notes, "The system cannot measure peaks anew: some are those of earlier cells of the same process."]
    parts.append("\n".join(f"- {note}" for note in (*notes, *messages(results))))
    return "\n\n".join(parts) + "\n"


def messages(results: Results) -> list[str]:
    """What is to be said of cells that diverged."""
    return [
        f"{cell.spelled} diverged: {result.message}"
        for cell, result in results.items()
        if result is not None and result.status == "diverged"
    ]


def _row(cells: Sequence[Cell], results: Sequence[CellResult | None]) -> list[str]:
    first = cells[0]
    done = [result for result in results if result is not None and result.status == "done"]
    diverged = sum(result is not None and result.status == "diverged" for result in results)
    missing = sum(result is None for result in results)
    seeds = ", ".join(str(cell.seed) for cell in cells)
    states = [f"{count} {what}" for count, what in ((diverged, "diverged"), (missing, "not done")) if count]
    if states:
        seeds += f" ({', '.join(states)})" if len(cells) > 1 else f" ({states[0].partition(' ')[2]})"
    head = [first.method, f"{first.eps:g}", f"{first.settings.eps:g}", seeds]
    rates = [
        _percent([rate for result in done if (rate := result.rate(name)) is not None])
        for name in ("standard", "attacked", "verified", "own")
    ]
    epochs = ", ".join(str(result.best_epoch) for result in done) or "-"
    seconds = [
        _mean([value for result in done if (value := getattr(result, name)) is not None], digits)
        for name, digits in (("training_seconds", 1), ("seconds_per_epoch", 2), ("certification_seconds", 1))
    ]
    peaks = [result.peak_memory for result in done if result.peak_memory is not None]
    return [*head, *rates, epochs, *seconds, str(round(max(peaks) / 2**20)) if peaks else "-"]


def _mean(values: Sequence[float], digits: int) -> str:
    return f"{statistics.fmean(values):.{digits}f}" if values else "-"


def _percent(rates: Sequence[float]) -> str:
    """The mean, and the standard deviation of a sample where there are several."""
    deviation = f" ± {100 * statistics.stdev(rates):.2f}" if len(rates) > 1 else ""
    return _mean([100 * rate for rate in rates], 2) + deviation


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [HEADER, ["---"] * 4 + ["---:"] * (len(HEADER) - 4), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
