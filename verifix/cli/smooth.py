"""``verifix smooth``: certificates by votes under noise, and what becomes of them."""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any

from verifix.cli import options

DESCRIPTION = """Randomized smoothing: a network that answers by a vote over noisy copies of its input, and the radii
within which this answer provably stays."""
CERTIFY = """Certify inputs of a data set by votes under noise. Results are appended to RUN/results.jsonl as soon as
they are decided; a run that was stopped, in whatever way, continues with --resume. RUN/summary.json is written at the
end. Certificates hold with a probability, which is stated; splitting noise with --lattice is tried completely and
certifies surely."""
PREDICT = """Answer inputs of a data set by votes under noise, or abstain where the vote is close. Results go to
RUN/results.jsonl and RUN/summary.json as those of certify do."""
REPORT = """Draw certified accuracy against radius, for several runs on one figure, and print it as a table: from run
folders, and from logs in the format that the literature publishes (idx, label, predict, radius, correct, time).
Writes certified_accuracy.png with its numbers in certified_accuracy.json, and certified_accuracy.md."""
LOG = """Write a run in the tab-separated format that the literature publishes; radii are rounded down to three
significant digits. The format has no place for their norm: tell it to report where it is not l2."""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the arguments of this command and of those below it."""
    parser = subparsers.add_parser("smooth", help="certify by votes under noise", description=DESCRIPTION)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    certify = actions.add_parser("certify", help="radii by votes under noise", description=CERTIFY)
    _add_run(certify)
    certify.add_argument(
        "--n0", type=options.positive, default=100, metavar="N", help="samples that select the class (default: 100)"
    )
    certify.add_argument(
        "--rule",
        default="t-certify",
        help="t-certify, certify or t-certify-paper, which is proven at a lower level (default: t-certify)",
    )
    certify.add_argument(
        "--radius",
        type=options.number,
        metavar="R",
        help="draw samples, --n at most, only until this radius is certified or out of reach",
    )
    certify.add_argument(
        "--relative-width",
        type=options.number,
        metavar="W",
        help="draw samples, --n at most, only until the radius is at least 1 - W of what any number could certify",
    )
    options.add_common(certify)

    predict = actions.add_parser("predict", help="classes by votes under noise", description=PREDICT)
    _add_run(predict)
    options.add_common(predict)

    report = actions.add_parser("report", help="certified accuracy against radius", description=REPORT)
    report.add_argument("runs", nargs="+", metavar="RUN_OR_LOG", help="run folders and logs; NAME=PATH names one")
    report.add_argument(
        "--out", required=True, type=options.folder, metavar="FOLDER", help="folder for the files, made if need be"
    )
    report.add_argument(
        "--radii", nargs="+", type=options.number, metavar="R", help="of the table (default: about ten)"
    )
    report.add_argument(
        "--norm",
        choices=("l2", "l1", "l0", "linf", "wasserstein"),
        default="l2",
        help="what the radii of logs are in, which do not say it (default: l2)",
    )
    report.add_argument("--title", default="", help="of the figure")

    log = actions.add_parser("log", help="a run in the format of published logs", description=LOG)
    log.add_argument("run", metavar="RUN", help="folder of a run of certify")
    log.add_argument("--out", required=True, metavar="FILE", help="file to write, such as run.tsv")


def _add_run(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)
    options.add_data(parser)
    noise = parser.add_argument_group("noise")
    noise.add_argument(
        "--noise",
        default="gaussian",
        metavar="NAME",
        help="gaussian or uniform-ball (l2), laplace, uniform or splitting (l1), keep-or-replace or ablation (l0), "
        "flow (wasserstein) (default: gaussian)",
    )
    noise.add_argument("--sigma", type=options.number, metavar="S", help="of gaussian: standard deviation")
    noise.add_argument(
        "--scale",
        type=options.number,
        metavar="S",
        help="of the others but keep-or-replace and ablation: in input units",
    )
    noise.add_argument(
        "--lattice",
        type=options.positive,
        metavar="LEVELS",
        help="inputs and noise are whole numbers of 1/LEVELS, such as 255: certificates then hold as computed",
    )
    noise.add_argument(
        "--keep",
        type=options.number,
        metavar="P",
        help="of keep-or-replace: the probability that a coordinate stays; of ablation: how many coordinates stay",
    )
    noise.add_argument("--null", metavar="V", help="of ablation: what hides a coordinate, a number or channel")
    noise.add_argument("--ground", metavar="NORM", help="of flow: the ground metric, l1 or l2")
    noise.add_argument("--mass", type=options.number, metavar="M", help="of flow: what images sum to (default: 1)")
    parser.add_argument(
        "--n", type=options.positive, default=100_000, metavar="N", help="samples for each input (default: 100000)"
    )
    parser.add_argument(
        "--alpha",
        type=options.number,
        default=0.001,
        metavar="P",
        help="how likely each answer may be wrong (default: 0.001)",
    )
    parser.add_argument("--skip", type=options.positive, default=1, metavar="K", help="every K-th input (default: 1)")
    parser.add_argument(
        "--out", required=True, type=options.folder, metavar="RUN", help="folder for the results, made if need be"
    )
    parser.add_argument("--resume", action="store_true", help="continue the results in RUN")
    parser.add_argument(
        "--batch",
        type=options.positive,
        metavar="N",
        help="noisy images drawn at once: a matter of memory, results are the same (default: 4 MiB of them)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; 0 when it is done.

    Raises:
        UserError: wrong input, before anything is written.
        RunInterrupted: stopped by the user.
    """
    module = "smooth_report" if args.action in ("report", "log") else "smooth_runs"
    status: int = getattr(import_module(f"verifix.cli.{module}"), args.action)(args)
    return status
