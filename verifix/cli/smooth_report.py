"""``verifix smooth report`` and ``verifix smooth log``: what runs look like, beside those of others."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from verifix.certify.store import read_settings
from verifix.errors import InvalidValue
from verifix.files import make_folder, refuse_other_run, write_bytes
from verifix.report.smoothing import (
    SmoothedCurve,
    common_norm,
    markdown,
    smoothing_picture,
    smoothing_table,
    table_radii,
)
from verifix.smooth.log import read_log, write_log
from verifix.smooth.run import read_run


def report(args: argparse.Namespace) -> int:
    """Run ``verifix smooth report``."""
    curves = [_curve(text, args.norm) for text in args.runs]
    for radius in args.radii or ():
        if not 0 <= radius < math.inf:
            raise InvalidValue("radii", radius, "must be finite and at least 0")
    names = Counter(curve.name for curve in curves)
    curves = [  # two folders of one name are told apart by their paths
        replace(curve, name=text) if names[curve.name] > 1 else curve
        for curve, text in zip(curves, args.runs, strict=True)
    ]
    common_norm(curves)
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


def _curve(text: str, norm_of_logs: str) -> SmoothedCurve:
    """The curve of ``PATH`` or ``NAME=PATH``, a folder or a log."""
    name, equals, rest = text.partition("=")
    path = Path(rest if equals and not Path(text).exists() else text)
    name = name if equals and not Path(text).exists() else path.stem if path.is_file() else path.name
    if path.is_dir():
        rows, norm = read_run(path)
        total = read_settings(path)["limit"]
        return SmoothedCurve.of(name if len(rows) == total else f"{name} ({len(rows)} of {total})", rows, norm)
    return SmoothedCurve.of(name, read_log(path), norm_of_logs)


def log(args: argparse.Namespace) -> int:
    """Run ``verifix smooth log``."""
    rows, _ = read_run(Path(args.run))
    write_log(args.out, rows)
    print(f"{len(rows)} rows: {args.out}")
    return 0
