"""``verifix detect``: which inputs could be adversarial examples; none that is one passes."""

from __future__ import annotations

import argparse
from typing import Any

from verifix.cli import options

DESCRIPTION = """Flag every input that could be a perturbation of another one with another class: every input whose own
prediction is not certified on the ball around it. No perturbation of that size of an input that the network classifies
correctly passes unflagged if it changes the class. Labels serve to count what is flagged, nothing else. Results go to
RUN/results.jsonl, whose inputs with verdict verified are those not flagged; a run that was stopped, in whatever way,
continues with --resume. RUN/summary.json is written at the end."""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the arguments of this command."""
    parser = subparsers.add_parser("detect", help="flag what may be an adversarial example", description=DESCRIPTION)
    options.add_model(parser)
    options.add_data(parser)
    options.add_eps(parser)
    options.add_norm(parser)
    options.add_method(parser)
    options.add_run(parser)
    options.add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command; 0 when every input is decided, whether flagged or not.

    Raises:
        UserError: wrong input, before anything is written.
        RunInterrupted: stopped by the user.
    """
    from verifix.certify import detect_run
    from verifix.cli.show import progress_meter, show_table

    device = options.apply_common(args)
    ball = options.make_ball(args, args.eps)
    data = options.load_data(args)
    model = options.load_network(args, data, device)
    with progress_meter("detect", "not flagged") as progress:
        summary = detect_run(model, data, ball, progress=progress, **options.run_arguments(args, data))
    rows = {
        "flagged": f"{summary['flagged']} ({summary['flagged_fraction']:.2%})",
        "flagged of right": _percent(summary["flagged_of_right"]),
        "flagged of wrong": _percent(summary["flagged_of_wrong"]),
        "accuracy": f"{summary['accuracy']:.2%}",
        "of unflagged": _percent(summary["accuracy_of_unflagged"]),
    }
    show_table(summary, f"{summary['norm']} ball of radius {summary['eps']:.6g}", rows, args.out, data.note)
    return 0


def _percent(fraction: float | None) -> str:
    return "none" if fraction is None else f"{fraction:.2%}"
