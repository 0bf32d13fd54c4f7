"""``verifix landscape``: the loss landscape, the slopes and the tightness of training runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from verifix.cli import options

DESCRIPTION = """Draw what runs of verifix train --landscape-every N have measured, after Lee et al. (2021): DIR gets
landscape.png, the loss with its variation along the gradient, and how far gradients move, at the scheduled eps;
landscape_target.png, the same at the eps of the end; slopes.png, the slopes of free lines of unstable units; and
tightness.png, several bounds on the best weights of each run, over inputs of the test set. Beside each picture lie its
numbers, as .json. A run without best weights or data leaves tightness.png out, and one that is still being trained can
be looked at. Exit status 2 for a folder that is no training run or has no landscape log."""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the arguments of this command."""
    parser = subparsers.add_parser(
        "landscape", help="pictures of the loss landscape during training", description=DESCRIPTION
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a training run, one line in the pictures")
    parser.add_argument(
        "--out", required=True, type=options.folder, metavar="DIR", help="folder for the pictures, made if need be"
    )
    parser.add_argument(
        "--pictures",
        metavar="A,B",
        help="some of landscape, slopes and tightness, all of which must be possible then (default: what is possible)",
    )
    parser.add_argument(
        "--methods",
        metavar="A,B",
        help="bounds that tightness.png compares (default: tight-smooth,crown-ibp,cap-ibp,interval:random,ibp)",
    )
    parser.add_argument("--data", help="in place of the data that each run was trained on; the test split by default")
    parser.add_argument("--eps", type=options.number, help="radius of tightness.png (default: of validation)")
    options.add_memory(parser)
    options.add_common(parser, limit=200)


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        UserError: wrong input, before anything is written.
    """
    from verifix.cli.show import stages_meter
    from verifix.errors import UserError
    from verifix.files import make_folder, refuse_other_run, remove_empty, write_json
    from verifix.report.landscape_figures import draw_landscape, labels
    from verifix.train.runs import read_run
    from verifix.train.tightness import METHODS

    device = options.apply_common(args)
    options.allow_own_modules()
    runs = [read_run(folder) for folder in args.runs]
    methods = METHODS if args.methods is None else tuple(args.methods.split(","))
    pictures = None if args.pictures is None else tuple(args.pictures.split(","))
    folder = Path(args.out)
    refuse_other_run(folder)
    created = make_folder(folder)
    try:
        with stages_meter() as progress:
            drawn = draw_landscape(
                folder,
                runs,
                pictures=pictures,
                methods=methods,
                data=args.data,
                limit=args.limit,
                eps=args.eps,
                memory=args.memory,
                device=device,
                progress=progress,
            )
    except UserError:
        remove_empty(created)
        raise
    settings = {"runs": args.runs, "methods": methods, "pictures": pictures, "eps": args.eps, "limit": args.limit}
    write_json(folder / "settings.json", {"settings": settings, "sources": {"data": args.data}})
    _show(labels(runs), drawn.means, drawn.written, drawn.left_out)
    return 0


def _show(
    names: list[str], means: dict[str, dict[str, float | None]], written: list[Path], left_out: dict[str, str]
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from verifix.report.landscape import MEASURES

    console = Console()
    if means:
        table = Table(title=Text("means while eps rises, at the scheduled eps"), title_justify="left")
        table.add_column("", overflow="fold")
        for measure in means:
            table.add_column(MEASURES[measure], justify="right")
        for name in names:
            values = [means[measure][name] for measure in means]
            table.add_row(Text(name), *("-" if value is None else f"{value:.4g}" for value in values))
        console.print(table)
    for path in written:
        console.print(Text(str(path)), soft_wrap=True)
    for name, reason in left_out.items():
        console.print(Text(f"no {name}: {reason}"), soft_wrap=True)
