"""``verifix compare``: methods of training side by side, from the same start to one table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verifix.cli import options
from verifix.cli.train import add_landscape, add_shared, landscape_of
from verifix.errors import InvalidValue

if TYPE_CHECKING:
    from torch import nn

    from verifix.compare import Cell, Comparison, Work
    from verifix.data import Dataset
    from verifix.train import Epoch

BROKEN = 1
DESCRIPTION = """Train a network by each method, for each radius and seed, all other settings being equal; certify it
by the best of all bounds, and by the bound it was trained with; attack it with PGD. DIR/table.md, DIR/summary.json
and DIR/compare.png have standard, attacked and verified errors, seconds and memory. The networks of all methods begin
with the same weights, the best epoch is chosen on examples held out of the training set, and the test set is used
once. What was stopped, in whatever way, goes on with --resume; on several machines, each does cells of its own with
--only. Training that diverges is one of the results. Exit status 1 if the attack breaks a certificate, which would be
a bug."""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the arguments of this command."""
    parser = subparsers.add_parser(
        "compare", help="train by several methods, certify, attack, and tabulate", description=DESCRIPTION
    )
    options.add_model(parser)
    parser.add_argument(
        "--data",
        required=True,
        help="digits, mnist:DIR, cifar10:DIR or npz:FILE; training set and test set of it, see --test-data",
    )
    parser.add_argument("--test-data", metavar="DATA", help="the test set, where --data does not have it, as npz:FILE")
    parser.add_argument(
        "--methods",
        required=True,
        metavar="LIST",
        help="of training, separated by commas: bounds as for verifix train --method; none, fgsm and pgd too. Settings "
        "of one method alone stand in parentheses, such as 'ibp,crown-ibp(lr=0.0005)'",
    )
    parser.add_argument(
        "--eps", required=True, type=_numbers, metavar="LIST", help="radii that networks are certified and attacked at"
    )
    parser.add_argument(
        "--eps-train", type=_numbers, metavar="LIST", help="for each of them the radius to train for (default: --eps)"
    )
    parser.add_argument(
        "--seeds", type=_seeds, metavar="LIST", help="of training; one network for each (default: that of --seed)"
    )
    options.add_norm(parser)
    options.add_memory(parser, default=1 << 30)
    add_shared(parser)
    add_landscape(parser.add_argument_group("loss landscape"))
    _add_tests(parser.add_argument_group("certification and attack"))
    parser.add_argument("--train-limit", type=options.positive, metavar="N", help="only the first N training examples")
    parser.add_argument(
        "--out", required=True, type=options.folder, metavar="DIR", help="folder for the results, made if need be"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the comparison in DIR, or begin it")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="METHOD:EPS:SEED",
        help="work on this cell alone; may be given several times (default: all)",
    )
    options.add_checkpoint_seconds(parser)
    options.add_common(parser)


def _add_tests(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--certify-method",
        metavar="BOUNDS",
        help="joined by +, of which the best is taken (default: all of the engine's, see docs/comparison.md)",
    )
    group.add_argument(
        "--certify-batch", type=options.positive, default=50, metavar="N", help="inputs at once (default: 50)"
    )
    group.add_argument(
        "--attack-steps", type=options.positive, default=100, metavar="N", help="of PGD, each eps / 4 (default: 100)"
    )
    group.add_argument(
        "--attack-restarts",
        type=options.positive,
        default=2,
        metavar="N",
        help="starts of PGD: the input, then random points of the ball (default: 2)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; 0 when every cell is done, whether or not its training diverged; 1 for a broken certificate.

    Raises:
        UserError: wrong input, of any cell, before anything is written.
        RunInterrupted: stopped by the user.
    """
    from verifix.cli.show_comparison import comparison_meter, show_comparison
    from verifix.compare import CertificateBroken, run_comparison
    from verifix.report import comparison_picture

    device = options.apply_common(args)
    comparison = _comparison(args)
    if args.initialisation != "none" and args.weights is not None:
        raise InvalidValue("weights", args.weights, "--initialisation draws new ones: leave one of the two out")
    data, test = _load(args)
    work = _work(args, comparison, data, test, device)
    try:
        with comparison_meter() as (progress, report):
            results = run_comparison(work, only=args.only, resume=args.resume, progress=progress, on_cell=report)
    except CertificateBroken as error:
        print(f"verifix: CERTIFICATE BROKEN: {error}", file=sys.stderr)
        return BROKEN
    comparison_picture(work.folder / "compare.png", results)
    show_comparison(work, results)
    return 0


def _comparison(args: argparse.Namespace) -> Comparison:
    from verifix.compare import Comparison, split_methods
    from verifix.train import TrainSettings

    of_cells = ("method", "eps", "seed", "attack_steps")  # the attack's is on the test set
    names = [field.name for field in fields(TrainSettings) if field.name not in of_cells]
    training = {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
    return Comparison(
        methods=split_methods(args.methods),
        eps=args.eps,
        eps_train=args.eps_train,
        seeds=args.seeds or (args.seed,),
        training={name: tuple(value) if isinstance(value, list) else value for name, value in training.items()},
        certify_batch=args.certify_batch,
        attack_steps=args.attack_steps,
        attack_restarts=args.attack_restarts,
        seed=args.seed,
        **({} if args.certify_method is None else {"certify_method": args.certify_method}),
    )


def _load(args: argparse.Namespace) -> tuple[Dataset, Dataset]:
    """What to train on, and what to test on."""
    import torch

    from verifix.data import load

    for name in ("data", "test_data"):
        value = getattr(args, name)
        if value is not None and value.endswith((":train", ":test")) and (name == "data" or args.test_data is None):
            raise InvalidValue(name, value, "both sets are used: leave the end out, or name the other in test_data")
    if args.test_data is None and args.data.startswith("npz:"):
        raise InvalidValue("test_data", None, f"{args.data} holds a single set: name an archive for the test set")
    dtype = getattr(torch, args.dtype)
    data = load(args.data, "train").to(dtype)
    test = load(args.test_data or args.data, "test").to(dtype)
    if test.input_shape != data.input_shape or test.classes > data.classes:
        what = f"{test.name} with {test.classes} classes of shape {test.input_shape}"
        remedy = f"does not fit the training set, {data.classes} classes of shape {data.input_shape}"
        raise InvalidValue("test_data", what, remedy)
    data = data if args.train_limit is None else data.first(args.train_limit)
    return data, test if args.limit is None else test.first(args.limit)


def _work(args: argparse.Namespace, comparison: Comparison, data: Dataset, test: Dataset, device: str) -> Work:
    from verifix.compare import Work
    from verifix.models import inner
    from verifix.report import training_curves

    folder = Path(args.out)

    def make(seed: int) -> nn.Module:
        return options.load_network(args, data, device)

    def on_trained(cell: Cell, history: Sequence[Epoch]) -> None:
        training_curves(folder / cell.name / "train" / "curves.png", history)

    about = options.settings_of_model(args)
    del about["seed"]  # each cell has its own
    return Work(
        comparison=comparison,
        make=make,
        data=data,
        test=test,
        folder=folder,
        saved=inner,
        memory=args.memory,
        checkpoint_seconds=args.checkpoint_seconds,
        about=about,
        sources={**options.sources_of_model(args, data), "test_data": args.test_data},
        landscape=landscape_of(args),
        on_trained=on_trained,
    )


def _numbers(text: str) -> tuple[float, ...]:
    """Numbers, separated by commas."""
    return tuple(options.number(part.strip()) for part in text.split(","))


def _seeds(text: str) -> tuple[int, ...]:
    """Whole numbers, separated by commas."""
    return tuple(options.natural(part.strip()) for part in text.split(","))
