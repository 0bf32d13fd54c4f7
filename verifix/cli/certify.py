"""``verifix certify``: which inputs of a data set hold a certificate, and which do not."""

from __future__ import annotations

import argparse
from typing import Any

from verifix.cli import options

DESCRIPTION = """Decide for every input of a data set whether any perturbation in a ball around it can change the
answer. Results are appended to RUN/results.jsonl as soon as they are decided; a run that was stopped, in whatever way,
continues with --resume. RUN/summary.json is written at the end. A cascade, which is a cascade.json as MODEL or several
state dicts in --weights, answers by its first stage that certifies its own prediction, or abstains."""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the arguments of this command."""
    parser = subparsers.add_parser("certify", help="certify a network on a data set", description=DESCRIPTION)
    options.add_model(parser)
    options.add_data(parser)
    options.add_eps(parser)
    options.add_threat(parser)
    options.add_method(parser)
    options.add_estimator(parser)
    parser.add_argument(
        "--delta",
        type=options.number,
        metavar="P",
        help="with geometric: how likely a certificate may be wrong, by its draws (default: 0.01)",
    )
    options.add_run(parser)
    options.add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command; 0 when every input is decided.

    Raises:
        UserError: wrong input, before anything is written.
        RunInterrupted: stopped by the user.
    """
    from verifix.bounds import Estimator, parse_method
    from verifix.certify.chance import share_delta
    from verifix.certify.run import certify_run
    from verifix.cli.show import progress_meter, show_summary

    device = options.apply_common(args)
    ball = options.make_threat(args, args.eps)
    estimator = Estimator.parse(args.estimator, delta=args.delta, seed=args.seed)
    share_delta(parse_method(args.method, estimator))
    data = options.load_data(args)
    model = options.load_cascade(args, data, device) or options.load_network(args, data, device)
    with progress_meter() as progress:
        arguments = options.run_arguments(args, data)
        summary = certify_run(model, data, ball, estimator=estimator, progress=progress, **arguments)
    show_summary(summary, args.out, data.note)
    return 0
