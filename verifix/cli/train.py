"""``verifix train``: a network whose robustness can be certified afterwards."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verifix.cli import options
from verifix.errors import InvalidValue

if TYPE_CHECKING:
    from verifix.train import Epoch, TrainSettings

DESCRIPTION = """Train a network so that its outputs, bounded over a ball around every example, are right; or under
noise, for randomized smoothing (--method gaussian, adre, adre-adv or smoothadv, with --sigma); or at the points that an
attack finds (--method fgsm or pgd; over several balls msd, worst or augmentation, with --union). RUN gets the weights
(best.safetensors by validation error, or by the radius that votes under noise suggest; last.safetensors; each with a
.json beside it), log.jsonl with a line for every epoch, curves.png, and a checkpoint: training that was stopped, in
whatever way, goes on with --resume. With several processes: torchrun --nproc-per-node N -m verifix train ..."""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the arguments of this command."""
    parser = subparsers.add_parser("train", help="train a network to be certifiable", description=DESCRIPTION)
    options.add_model(parser)
    options.add_data(parser, "train")
    parser.add_argument("--eps", type=options.number, help="radius in units of the raw input, such as 0.1 or 8/255")
    parser.add_argument(
        "--eps-test", type=options.number, metavar="EPS", help="radius of validation, at most --eps (default: --eps)"
    )
    options.add_norm(parser)
    parser.add_argument(
        "--method",
        default="cap",
        help="none (standard training), ibp, crown-ibp, cap-ibp, tight-smooth, cap, crown, or choices such as "
        "interval:random:p=0:q=0.5; several joined by + (default: cap); for randomized smoothing gaussian, adre, "
        "adre-adv, smoothadv, see --sigma; for adversarial training fgsm, pgd, and over unions msd, worst, "
        "augmentation, see --union",
    )
    options.add_estimator(parser)
    options.add_memory(parser, default=1 << 30)
    _add_smoothing(parser.add_argument_group("randomized smoothing"))
    parser.add_argument(
        "--union",
        metavar="BALLS",
        help="norms and radii of msd, worst and augmentation, such as linf:0.3,l2:1.5,l1:12; --eps is then a factor of "
        "them all (default: 1)",
    )
    add_shared(parser)
    parser.add_argument(
        "--stages",
        type=options.positive,
        default=1,
        metavar="N",
        help="train a cascade of up to N networks, each on what those before it do not certify: RUN/stage-0 ... and "
        "RUN/cascade.json for verifix certify (default: 1, a single network)",
    )
    add_landscape(parser.add_argument_group("loss landscape"))
    parser.add_argument(
        "--out", required=True, type=options.folder, metavar="RUN", help="folder for the results, made if need be"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the training in RUN")
    options.add_checkpoint_seconds(parser)
    options.add_common(parser)


def add_shared(parser: argparse.ArgumentParser) -> None:
    """Add the options that every method has."""
    certified = parser.add_argument_group("certified training")
    _add_objective(certified)
    _add_start(certified)
    _add_schedule(parser.add_argument_group("schedule"))
    _add_optimiser(parser.add_argument_group("optimiser"))
    _add_validation(parser.add_argument_group("validation"))


def _add_objective(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--beta",
        type=options.number,
        nargs=2,
        metavar=("FROM", "TO"),
        help="weight of the method's bound beside that of ibp, going with eps (default: 1 1, the method's alone)",
    )
    group.add_argument(
        "--kappa",
        type=options.number,
        nargs=2,
        metavar=("FROM", "TO"),
        help="weight of the plain cross-entropy beside the robust one, going with eps (default: 0 0)",
    )
    group.add_argument(
        "--l1", type=options.number, metavar="W", help="weight of the sum of absolute weights (default: 0)"
    )


def _add_smoothing(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--sigma", type=options.number, metavar="S", help="standard deviation of the noise, raw units")
    group.add_argument(
        "--noises",
        type=options.positive,
        metavar="K",
        help="noisy copies of each example in a step (default: 1 for gaussian, else 8)",
    )
    group.add_argument(
        "--validation-noises",
        type=options.positive,
        metavar="K",
        help="noisy copies of each validation example that vote (default: 16)",
    )
    group.add_argument(
        "--adre-weight", type=options.number, metavar="W", help="lambda of adre and adre-adv (default: 0.1)"
    )
    group.add_argument(
        "--probability-floor",
        type=options.number,
        metavar="P",
        help="added to the probability of the runner-up in adre and adre-adv (default: 1e-6)",
    )
    group.add_argument(
        "--attack-eps", type=options.number, metavar="EPS", help="l2 radius of the attack of adre-adv and smoothadv"
    )
    group.add_argument(
        "--attack-steps",
        type=options.positive,
        metavar="M",
        help="of the attack (default: 2; of pgd, msd, worst and augmentation 10)",
    )
    group.add_argument(
        "--attack-step",
        type=options.number,
        metavar="S",
        help="length of each (default: 2 * attack-eps / M); of pgd and over unions as a fraction of the radius "
        "(default: 2.5 / M; of fgsm 1.25)",
    )
    group.add_argument(
        "--attack-warmup",
        type=options.number,
        metavar="N",
        help="epochs in which the attack grows to its radius (default: a third of all, at most 10)",
    )


def _add_start(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--initialisation",
        default="none",
        metavar="NAME",
        help="ibp draws the weights anew, for narrow intervals (default: none, the network's own)",
    )
    group.add_argument(
        "--regulariser",
        type=options.number,
        default=0.0,
        metavar="W",
        help="weight of what keeps bounds narrow and units in balance while eps rises, such as 0.5 (default: 0)",
    )
    group.add_argument(
        "--regulariser-tolerance",
        type=options.number,
        default=0.5,
        metavar="T",
        help="what it tolerates: bounds 1/T as wide as those of the inputs, a balance of T (default: 0.5)",
    )
    group.add_argument(
        "--batch-norm",
        default="stored",
        metavar="KIND",
        help="clean trains batch norm with statistics of clean inputs (default: stored, which leaves them alone)",
    )


def _add_schedule(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--epochs", type=options.positive, default=20, metavar="N", help="(default: 20)")
    group.add_argument(
        "--batch", type=options.positive, default=50, metavar="N", help="examples of one step (default: 50)"
    )
    group.add_argument(
        "--eps-schedule", default="linear", metavar="KIND", help="constant, linear or smoothed (default: linear)"
    )
    group.add_argument(
        "--eps-start", type=options.number, metavar="EPS", help="eps at the beginning (default: a tenth of --eps)"
    )
    group.add_argument(
        "--eps-ramp", type=options.number, metavar="N", help="epochs until --eps is reached (default: a third of all)"
    )
    group.add_argument(
        "--eps-warmup",
        type=options.number,
        metavar="N",
        help="epochs of plain training before that; --eps-start is then 0 by default (default: 0)",
    )
    group.add_argument(
        "--lr-schedule",
        default="constant",
        metavar="KIND",
        help="constant, step, multistep or cosine (default: constant)",
    )
    group.add_argument("--lr-factor", type=options.number, default=0.5, metavar="F", help="of a step (default: 0.5)")
    group.add_argument(
        "--lr-every", type=options.positive, default=10, metavar="N", help="epochs between two steps (default: 10)"
    )
    group.add_argument(
        "--lr-start",
        type=options.number,
        default=0.0,
        metavar="N",
        help="epoch that steps are counted from (default: 0)",
    )
    group.add_argument(
        "--lr-milestones", type=options.positive, nargs="+", default=[], metavar="N", help="epochs of multistep"
    )


def _add_optimiser(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--optimiser", default="adam", metavar="NAME", help="adam or sgd (default: adam)")
    group.add_argument("--lr", type=options.number, default=1e-3, help="learning rate (default: 0.001)")
    group.add_argument("--momentum", type=options.number, default=0.9, metavar="M", help="of sgd (default: 0.9)")
    group.add_argument("--weight-decay", type=options.number, default=0.0, metavar="D", help="(default: 0)")
    group.add_argument(
        "--clip", type=options.number, metavar="NORM", help="largest norm of the gradient (default: any)"
    )


def _add_validation(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--validation",
        type=options.number,
        default=0.1,
        metavar="N",
        help="examples held out, a number or a fraction; 0 for none (default: 0.1)",
    )
    group.add_argument(
        "--validation-limit", type=options.positive, metavar="N", help="look at so many of them alone (default: all)"
    )
    group.add_argument(
        "--validation-every",
        type=options.positive,
        default=1,
        metavar="N",
        help="epochs between two looks (default: 1)",
    )
    group.add_argument(
        "--patience",
        type=options.positive,
        metavar="N",
        help="stop after N epochs that are no better at the full eps (default: never)",
    )


def add_landscape(group: argparse._ArgumentGroup) -> None:
    """Add what is measured on the way, as :func:`verifix.train.train` takes it."""
    group.add_argument(
        "--landscape-every",
        type=options.positive,
        metavar="N",
        help="measure loss and gradient along the gradient before every N-th step, into RUN/landscape.jsonl; see "
        "verifix landscape (default: never)",
    )
    group.add_argument(
        "--landscape-points",
        type=options.positive,
        metavar="K",
        help="steps of 0.5 to 5 learning rates, beside 0 and 1 (default: 10); each costs two gradients of the batch, "
        "one once eps is reached",
    )
    group.add_argument(
        "--landscape-fresh",
        action="store_true",
        help="measure with fresh random slopes or projections at every step too, for as much again",
    )


def landscape_of(args: argparse.Namespace) -> dict[str, Any]:
    """How to measure the landscape, by the names that :func:`verifix.train.train` has; nothing where it is not.

    Raises:
        InvalidValue: how to measure, and not when.
    """
    from verifix.train.landscape import POINTS

    if args.landscape_every is None:
        for name in ("landscape_points", "landscape_fresh"):
            if getattr(args, name):
                raise InvalidValue(name, getattr(args, name), "goes with --landscape-every N: give that as well")
        return {}
    return {
        "landscape_every": args.landscape_every,
        "landscape_points": POINTS if args.landscape_points is None else args.landscape_points,
        "landscape_fresh": args.landscape_fresh,
    }


def run(args: argparse.Namespace) -> int:
    """Run the command; 0 when training has come to its end.

    Raises:
        UserError: wrong input, before anything is written; or a loss that is not finite any more.
        RunInterrupted: stopped by the user.
    """
    from verifix.cli.show_training import show_training, training_meter
    from verifix.models import inner
    from verifix.report import training_curves
    from verifix.train import train
    from verifix.train.distributed import Group, joined

    settings, landscape = _settings(args), landscape_of(args)
    with joined(args.device) as args.device:
        device = options.apply_common(args)
        data = options.load_data(args, split="train")
        if args.stages > 1:
            if landscape:
                raise InvalidValue("landscape-every", args.landscape_every, "goes with one network: leave --stages out")
            from verifix.cli.train_cascade import run_cascade

            run_cascade(args, settings, data, device, _curves)
            return 0
        if settings.initialisation != "none" and args.weights is not None:
            raise InvalidValue("weights", args.weights, "--initialisation draws new ones: leave one of the two out")
        model = options.load_network(args, data, device)
        with training_meter() as progress:
            result = train(
                model,
                data,
                settings,
                out=args.out,
                resume=args.resume,
                checkpoint_seconds=args.checkpoint_seconds,
                saved=inner(model),
                about=options.settings_of_model(args),
                sources=options.sources_of_model(args, data),
                progress=progress,
                on_epoch=_curves(Path(args.out) / "curves.png"),
                **landscape,
            )
        if Group.current(device).first:
            training_curves(Path(args.out) / "curves.png", result.history)
            show_training(result, settings, args)
    return 0


def _curves(path: Path) -> Callable[[Sequence[Epoch]], None]:
    """Draws the picture after an epoch, but spends no more than a small part of the time on it."""
    from verifix.report import training_curves

    due = 0.0

    def draw(history: Sequence[Epoch]) -> None:
        nonlocal due
        began = time.monotonic()
        if began >= due:
            training_curves(path, history)
            due = time.monotonic() + 20 * (time.monotonic() - began)

    return draw


def _settings(args: argparse.Namespace) -> TrainSettings:
    """The arguments that decide the result; each has the name of its setting."""
    from verifix.train import TrainSettings
    from verifix.train.checks import OVER_UNIONS, SMOOTHING, STANDARD

    if args.eps is None and args.method not in (STANDARD, *SMOOTHING, *OVER_UNIONS):
        raise InvalidValue("eps", None, "name the radius to train for, such as --eps 0.1 (or --method none)")
    if args.eps == 0 and args.method in OVER_UNIONS:
        raise InvalidValue("eps", args.eps, f"of {args.method} it is a factor of all radii: give one above 0, or none")
    names = [field.name for field in fields(TrainSettings)]
    return TrainSettings.from_json({name: getattr(args, name) for name in names if getattr(args, name) is not None})
