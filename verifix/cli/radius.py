"""``verifix radius``: the largest radius at which each input of a data set is certified."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from verifix.cli import options

DESCRIPTION = """Find for every input of a data set the largest radius of a ball in which the network's own prediction
provably does not change. Results are appended to RUN/results.jsonl as soon as they are decided; a run that was stopped,
in whatever way, continues with --resume. RUN/summary.json is written at the end, and RUN/radius.png: the radii of all
inputs in increasing order, with the fraction of correct predictions as colour."""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the arguments of this command."""
    parser = subparsers.add_parser("radius", help="the largest certified radius of each input", description=DESCRIPTION)
    options.add_model(parser)
    options.add_data(parser)
    options.add_threat(parser)
    parser.add_argument(
        "--max-eps",
        type=options.number,
        metavar="EPS",
        help="the largest radius to try (default: as far as the box reaches, or 2**20)",
    )
    parser.add_argument(
        "--tolerance",
        type=options.number,
        default=1e-5,
        metavar="T",
        help="there is no certificate at 1 + T times the radius found (default: 1e-5)",
    )
    options.add_method(parser)
    options.add_run(parser)
    options.add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command; 0 when every radius is found.

    Raises:
        UserError: wrong input, before anything is written.
        RunInterrupted: stopped by the user.
    """
    from verifix.certify import radius_run
    from verifix.cli.show import progress_meter, show_table
    from verifix.report import radius_picture
    from verifix.sets import Ball
    from verifix.text import rounded_down

    device = options.apply_common(args)
    ball = options.make_threat(args, 0.0)
    data = options.load_data(args)
    model = options.load_network(args, data, device)
    with progress_meter("radius", "certified") as progress:
        summary, records = radius_run(
            model,
            data,
            norm=ball.norm if isinstance(ball, Ball) else ball,
            box=ball.box if isinstance(ball, Ball) else None,
            max_eps=args.max_eps,
            tolerance=args.tolerance,
            progress=progress,
            **options.run_arguments(args, data),
        )
    radius_picture(
        Path(args.out) / "radius.png",
        [record.eps for record in records],
        [record.prediction == record.label for record in records],
        f"{summary['settings']['model']} on {summary['settings']['data']}: {summary['norm']}, {summary['method']}",
    )
    eps = {name.replace("_", " "): rounded_down(value) for name, value in summary["eps"].items()}
    rows = {
        "clean error": f"{summary['clean_error']:.2%}",
        **{f"{name} radius": value for name, value in eps.items()},
        **({"without certificate": str(summary["verdicts"]["unknown"])} if summary["verdicts"]["unknown"] else {}),
        **({"certified everywhere": str(summary["unlimited"])} if summary["unlimited"] else {}),
        "evaluations": f"{summary['evaluations']['mean']:.2f} per input, {summary['evaluations']['most']} at most",
    }
    show_table(summary, f"{summary['norm']} balls", rows, args.out, data.note)
    return 0
