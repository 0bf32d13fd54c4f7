"""``verifix attack``: which inputs of a data set attacks fool, and which withstand all of them."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from verifix.cli import options

DESCRIPTION = """Attack every input of a data set inside a ball around it, by one attack after the other, each on the
inputs that none before it has fooled: the accuracy that is reported is the worst case of each input. Results are
appended to RUN/results.jsonl as soon as they are decided; a run that was stopped, in whatever way, continues with
--resume. RUN/summary.json is written at the end, with warnings where gradients seem to mislead."""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the arguments of this command."""
    parser = subparsers.add_parser("attack", help="attack a network on a data set", description=DESCRIPTION)
    options.add_model(parser)
    options.add_data(parser)
    options.add_eps(parser, required=False)
    options.add_threat(parser)
    options.add_union(parser)
    parser.add_argument(
        "--attack",
        default="standard",
        metavar="NAME",
        help="one or several joined by +, such as pgd+square, with settings in parentheses if need be, such as "
        "'pgd(loss=\"margin\")'; docs/attacks.md names all. standard is a strong set for lp balls and unions of them "
        "(default: standard)",
    )
    parser.add_argument("--steps", type=int, metavar="N", help="of every attack that has steps")
    parser.add_argument("--restarts", type=int, metavar="N", help="of every attack that has restarts")
    parser.add_argument(
        "--step-size", type=options.number, metavar="A", help="of every attack that has one; of pgd in the units of eps"
    )
    parser.add_argument(
        "--sanity", action="store_true", help="look for more signs of gradient masking, with the first 100 inputs"
    )
    parser.add_argument(
        "--save-examples", action="store_true", help="write RUN/examples.npz: the best examples, labels, who is fooled"
    )
    options.add_run(parser, batch=500)
    options.add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command; 0 when every input is decided.

    Raises:
        UserError: wrong input, before anything is written.
        RunInterrupted: stopped by the user.
    """
    from verifix.attack.registry import parse_attacks
    from verifix.attack.run import attack_run
    from verifix.cli.show import progress_meter
    from verifix.sets import Union

    device = options.apply_common(args)
    threat = options.make_union(args) or options.make_threat(args, args.eps)
    settings = {name: getattr(args, name) for name in ("steps", "restarts", "step_size")}
    norm = [member.norm for member in threat.members] if isinstance(threat, Union) else threat.norm
    attacks = parse_attacks(args.attack, settings, norm)
    data = options.load_data(args)
    model = options.load_network(args, data, device)
    with progress_meter("attack", "robust") as progress:
        summary = attack_run(
            model,
            data,
            threat,
            attacks,
            out=args.out,
            seed=args.seed,
            batch=args.batch,
            sanity=args.sanity,
            save_examples=args.save_examples,
            resume=args.resume,
            settings=options.settings_of_model(args),
            sources=options.sources_of_model(args, data),
            progress=progress,
        )
    _show(summary, args.out, data.note)
    return 0


def _show(summary: dict[str, Any], out: str, note: str) -> None:
    from verifix.cli.show import perturbation_of, show_table

    n = summary["n"]
    steps = {f"after {row['attack']}": f"{row['after']} of {row['before']} withstood it" for row in summary["attacks"]}
    rows = {
        "clean accuracy": f"{summary['clean_accuracy']:.2%}",
        **steps,
        "robust accuracy": f"{summary['robust_accuracy']:.2%} (the worst case of each input)",
        **({"undecided": f"{summary['undecided']}, not counted as robust"} if summary["undecided"] else {}),
        "queries": f"{summary['forwards'] / n:.1f} forward, {summary['backwards'] / n:.1f} backward per input",
    }
    show_table({**summary, "method": summary["attack"]}, perturbation_of(summary), rows, out, note)
    for text in summary["warnings"]:
        print(f"verifix: warning: {text}", file=sys.stderr)
