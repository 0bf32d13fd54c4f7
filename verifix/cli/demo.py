"""``verifix demo``: the whole story on the data set inside the package, in about a minute."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from verifix.cli.options import natural, positive
from verifix.errors import InvalidValue

DESCRIPTION = """Train a small convolutional network on handwritten digits, once normally and once through the engine's
bounds; certify both, attack both with PGD, and compare. Train a third one on noisy digits, and certify its vote under
noise. Writes OUT/report.md, its pictures and OUT/results.json. Exit status 1 if the attack breaks a certificate."""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the arguments of this command."""
    parser = subparsers.add_parser("demo", help="the whole story, in about a minute", description=DESCRIPTION)
    parser.add_argument(
        "--out", default="verifix-demo", metavar="DIR", help="folder for the report (default: verifix-demo)"
    )
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="of everything random (default: 0)")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: as torch chooses)")
    parser.add_argument("--epochs", type=positive, default=60, metavar="N", help="of robust training (default: 60)")


def run(args: argparse.Namespace) -> int:
    """Run the command; 1 if a certificate was broken, which would be a bug."""
    import torch
    from rich.console import Console
    from rich.table import Table

    from verifix.cli.show import stages_meter
    from verifix.demo import METHOD, Settings, run_demo, smooth_demo, smoothed_rows, table_rows, write_report

    folder = Path(args.out)
    _check_writable(folder)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    settings = Settings(seed=args.seed, epochs=args.epochs)
    with stages_meter() as progress:
        curves = run_demo(settings, progress)
        smoothed = smooth_demo(settings, progress)
    write_report(folder, settings, curves, smoothed)

    header, *rows = table_rows(settings, curves)
    table = Table(
        title="Handwritten digits, l_inf balls within [0, 1]: accuracy under attack / certified",
        caption=f"attacked by PGD, certified by {METHOD}",
        title_justify="left",
        caption_justify="left",
    )
    for column in header:
        table.add_column(column, justify="left" if column == header[0] else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    votes = Table(
        title="The same digits under l2 perturbations: certified by votes under noise, in percent",
        caption=f"T-CERTIFY, {settings.samples} samples; each is wrong with probability {settings.alpha:g} at most",
        title_justify="left",
        caption_justify="left",
    )
    header, *rows = smoothed_rows(smoothed)
    for column in header:
        votes.add_column(column, justify="right" if column else "left", no_wrap=True)
    for row in rows:
        votes.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(votes)
    broken = sum(curve.broken for curve in curves)
    console.print(f"Certificates broken by the attack: {broken}. Report: {folder / 'report.md'}", highlight=False)
    return 1 if broken else 0


def _check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written before any work is done."""
    existing = next(parent for parent in [folder, *folder.absolute().parents] if parent.exists())
    if not existing.is_dir():
        raise InvalidValue("--out", folder, "is a file; name a folder")
    if not os.access(existing, os.W_OK):
        raise InvalidValue("--out", folder, "cannot be written; choose another folder")
