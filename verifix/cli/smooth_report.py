"""``verifix smooth report`` and ``verifix smooth log``: what runs look like, beside those of others."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from verifix.errors import InvalidValue
from verifix.files import make_folder, refuse_other_run, write_bytes
from verifix.report.smoothing import SmoothedCurve, markdown, smoothing_picture, smoothing_table, table_radii
from verifix.smooth.log import read_log, write_log
from verifix.smooth.run import read_run


def report(args: argparse.Namespace) -> int:
    """Run ``verifix smooth report``."""
    curves = [_curve(text) for text in args.runs]
    if args.radii is not None and min(args.radii) < 0:
        raise InvalidValue("radii", min(args.radii), "must be at least 0")
    radii = table_radii(curves) if args.radii is None else sorted(args.radii)
    table = smoothing_table(curves, radii)
    folder = Path(args.out)
    refuse_other_run(folder)
    make_folder(folder)
    smoothing_picture(folder / "certified_accuracy.png", curves, args.title)
    write_bytes(folder / "certified_accuracy.md", (markdown(table) + "\n").encode())
    shown = Table(title="certified accuracy in percent", title_justify="left")
    for index, row in enumerate(table):  # turned, as runs are fewer than radii
        shown.add_column(row[0], justify="right" if index else "left")
    for values in list(zip(*table, strict=True))[1:]:
        shown.add_row(*values)
    Console().print(shown)
    return 0


def _curve(text: str) -> SmoothedCurve:
    """The curve of ``PATH`` or ``NAME=PATH``, a folder or a log."""
    name, equals, rest = text.partition("=")
    path = Path(rest if equals and not Path(text).exists() else text)
    name = name if equals and not Path(text).exists() else path.stem if path.is_file() else path.name
    if path.is_dir():
        rows, norm = read_run(path)
        return SmoothedCurve.of(name, rows, norm)
    return SmoothedCurve.of(name, read_log(path))


def log(args: argparse.Namespace) -> int:
    """Run ``verifix smooth log``."""
    rows, _ = read_run(Path(args.run))
    write_log(args.out, rows)
    print(f"{len(rows)} rows: {args.out}")
    return 0
