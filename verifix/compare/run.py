"""A whole comparison, into a folder that survives a crash.

=========================  ===========================================================================================
``comparison.json``        ``settings``, which decide the results and must be the same on resume; ``sources``, the paths
                           that were read
``METHOD-EPS-SEED``        one folder for each cell, see :mod:`verifix.compare.cell`
``summary.json``           all results in full precision, and means over seeds; derived from those of the cells
``table.md``               the same for people
=========================  ===========================================================================================
"""

from __future__ import annotations

import fcntl
import json
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from verifix.certify.run import RunInterrupted, versions
from verifix.compare.cell import State, Work, run_cell
from verifix.compare.rehearse import rehearse
from verifix.compare.result import CellResult
from verifix.compare.settings import Cell
from verifix.compare.table import Results, markdown
from verifix.errors import InvalidValue
from verifix.files import make_folder, refuse_other_run, remove_empty, require_same_settings, write_bytes, write_json

MARK = "comparison.json"


def run_comparison(
    work: Work,
    *,
    only: Sequence[str] = (),
    resume: bool = False,
    progress: Callable[[State], None] | None = None,
    on_cell: Callable[[Cell, CellResult], None] | None = None,
) -> Results:
    """Train, certify and attack the network of every cell, one after the other, and return what each has found.

    Cells that are done are not touched again, and one that was stopped goes on from its own checkpoint and results, bit
    for bit (on CPU, with as many threads). A cell whose training diverges is a result like others. Several processes
    may work on one folder, each on cells of its own.

    Args:
        only: the cells to work on, each ``METHOD:EPS:SEED``; default all. The table has what is there of the others.
        resume: go on with the comparison in the folder; one that is not there is begun either way.
        progress: called with every step.
        on_cell: called after each cell that was worked on, when tables are written.

    Raises:
        UserError: anything that would stop a cell, of any of them, and settings that differ from those that the folder
            began with; nothing on disk has been changed then.
        CertificateBroken: an attack broke a certificate.
        RunInterrupted: on ``KeyboardInterrupt``.
    """
    chosen = work.comparison.only(only)
    settings: dict[str, Any] = json.loads(json.dumps(_settings(work)))
    _refuse(work.folder, settings, resume)
    known = {cell: work.result_of(cell) for cell in work.comparison.cells}
    left = [cell for cell in chosen if known[cell] is None]
    rehearse(work, left)
    created = make_folder(work.folder)
    try:
        _enter(work, settings, resume)
    except OSError as error:
        remove_empty(created)
        raise InvalidValue("out", work.folder, f"cannot be written: {error.strerror}") from None
    try:
        results = _write_tables(work, settings)
        for cell in left:
            number = chosen.index(cell) + 1
            found = run_cell(work, cell, _shown(progress, cell, number, len(chosen)))
            results = _write_tables(work, settings)
            if on_cell is not None:
                on_cell(cell, found)
    except KeyboardInterrupt:
        done = sum((work.folder / cell.name / "cell.json").is_file() for cell in chosen)
        remedy = f"{done} of {len(chosen)} cells are done; run the same command with --resume to continue"
        raise RunInterrupted(f"{work.folder}: {remedy}") from None
    return results


def _settings(work: Work) -> dict[str, Any]:
    data = {
        f"{name}{suffix}": value
        for name, part in (("data", work.data), ("test_data", work.test))
        for suffix, value in (("", f"{part.name}:{part.split}"), ("_sha256", part.digest()), ("_size", len(part)))
    }
    return {
        **work.comparison.to_json(),
        **work.about,
        **data,
        "dtype": str(work.data.images.dtype)[6:],
        **work.landscape,
    }


def _refuse(folder: Path, settings: dict[str, Any], resume: bool) -> None:
    """Refuse a folder that holds something else, or the same by other settings."""
    refuse_other_run(folder, MARK)
    path = folder / MARK
    if not path.is_file():
        return
    if not resume:
        raise InvalidValue("out", folder, "holds a comparison already: add --resume to go on, or choose another folder")
    try:
        before = json.loads(path.read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InvalidValue("out", path, f"cannot be read ({error}), so the comparison cannot be resumed") from None
    require_same_settings(folder, before, settings)


def _enter(work: Work, settings: dict[str, Any], resume: bool) -> None:
    """Write what the comparison is, unless another process has just done so."""
    with _locked(work.folder):
        _refuse(work.folder, settings, resume)
        if not (work.folder / MARK).exists():
            write_json(work.folder / MARK, {"settings": settings, "sources": dict(work.sources)})


def _write_tables(work: Work, settings: dict[str, Any]) -> Results:
    """Write what is derived from the cells; one process at a time, so that the last one has all."""
    with _locked(work.folder):
        results = {cell: work.result_of(cell) for cell in work.comparison.cells}
        rows = [_row(cell, result) for cell, result in results.items()]
        summary = {"cells": rows, "groups": _groups(results), **versions(), "settings": settings}
        write_json(work.folder / "summary.json", summary)
        write_bytes(work.folder / "table.md", markdown(results, _title(work), _notes(work)).encode())
    return results


def _row(cell: Cell, result: CellResult | None) -> dict[str, Any]:
    if result is None:
        return {"method": cell.method, "eps": cell.eps, "seed": cell.seed, "folder": cell.name, "status": "not done"}
    return {"folder": cell.name, **result.to_json(), "settings": cell.settings.to_json()}


def _groups(results: Results) -> list[dict[str, Any]]:
    """Means and standard deviations over the seeds of each method and radius."""
    groups: dict[tuple[str, float], list[CellResult]] = {}
    for cell, result in results.items():
        group = groups.setdefault((cell.method, cell.eps), [])
        if result is not None and result.status == "done":
            group.append(result)
    return [
        {"method": method, "eps": eps, "seeds": [result.seed for result in group], **_statistics(group)}
        for (method, eps), group in groups.items()
    ]


def _statistics(group: Sequence[CellResult]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("standard", "attacked", "verified", "own"):
        rates = [rate for result in group if (rate := result.rate(name)) is not None]
        found[f"{name}_error_mean"] = statistics.fmean(rates) if rates else None
        found[f"{name}_error_std"] = statistics.stdev(rates) if len(rates) > 1 else None
    return found


def _title(work: Work) -> str:
    return f"Certified training of {work.about.get('model', 'a network')} on {work.data.name}"


def _notes(work: Work) -> list[str]:
    comparison, first = work.comparison, work.comparison.cells[0].settings
    box = f" within [{first.box[0]:g}, {first.box[1]:g}]" if first.box else ""
    attack = f"PGD: {comparison.attack_steps} steps of eps / 4 from the input"
    if comparison.attack_restarts > 1:
        times = comparison.attack_restarts - 1
        attack += f", then {'once' if times == 1 else f'{times} times'} from a random point of the ball"
    return [
        f"Errors on {len(work.test)} test inputs, in {first.norm} balls{box}; mean ± deviation over seeds.",
        f"Verified: without a certificate by {comparison.certify_method}, or by training's own bound; "
        "own bound: by that alone.",
        f"{attack}.",
        f"{_choice(work)}; the test set was used once.",
        "Seconds are of one process; peak memory is that of the process while it trained (on a GPU, of tensors).",
    ]


def _choice(work: Work) -> str:
    chosen = "The best epoch was chosen on examples held out of the training set"
    blind = [cell.method for cell in work.comparison.cells if not cell.settings.validation]
    if len(blind) == len(work.comparison.cells):
        return "No examples were held out to choose an epoch by: it is the last one that was tested"
    return f"{chosen} (of {', '.join(dict.fromkeys(blind))}, which held out none, the last one)" if blind else chosen


def _shown(
    progress: Callable[[State], None] | None, cell: Cell, number: int, cells: int
) -> Callable[[str, int, int, str], None]:
    def show(stage: str, done: int, total: int, note: str) -> None:
        if progress is not None:
            progress(State(cell, number, cells, stage, done, total, note))

    return show


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone among the processes that work on a comparison, for a moment."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
