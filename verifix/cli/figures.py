"""``verifix figures``: pictures of what robust training does, on the toy problem and of any network."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verifix.cli import options

if TYPE_CHECKING:
    from collections.abc import Mapping

TOY = """Train two networks on a few points of the unit square, one of them robustly, and draw: boundary.png, what both
classify and what is certified; polytopes_random.png and polytopes_trained.png, the outputs that are reached against the
polytope that bounds leave; tightness.png, the bounds against the optimum of their linear program; cascade.png, a
cascade of two small networks that certifies what the first of them cannot. Beside each picture lie its numbers, as
.json. Takes about a minute. Exit status 1 if an attack breaks a certificate."""
NETWORK = """Draw of any network: filters_0.png and filters_1.png, the kernels of its first convolutions; units.png, how
many units of each layer are always active, always inactive, or undecided, over the inputs; estimates.png, the errors
of norms that are estimated from 10, 50 and 100 random projections; tightness.png, its bounds
against the optimum of their linear program. Beside each picture lie its numbers, as .json."""
SPIRAL = """Locally biased smoothing of a linear classifier on two spirals, after figures 1 and 2 of Anderson, Sojoudi
(2022): regions.png, what is said where for several alpha; radii.png, average certified radius and accuracy against
alpha. Beside each picture lie its numbers, as .json. Takes about ten seconds. Exit status 1 if an attack breaks a
certificate."""
MNIST = """Locally biased smoothing of a convolutional network that tells one digit from the rest, after section 5.2 of
Anderson and Sojoudi (2022): smoothing.png and attack_radius.png, accuracy under attack, beside normal smoothing;
certified.png, certified accuracy where the bias is a constant. Beside each picture lie its numbers, as .json. Takes a
few minutes. Exit status 1 if an attack breaks a certificate."""
INPUTS = 200


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the arguments of this command."""
    parser = subparsers.add_parser("figures", help="pictures of the toy problem or of a network")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="WHAT")
    toy = kinds.add_parser("toy", help="the toy problem in two dimensions", description=TOY)
    _add_out(toy)
    toy.add_argument("--seed", type=options.natural, default=0, metavar="N", help="of everything random (default: 0)")
    toy.add_argument("--threads", type=options.positive, metavar="N", help="CPU threads (default: as torch chooses)")
    spiral = kinds.add_parser("biased-spiral", help="locally biased smoothing on spirals", description=SPIRAL)
    mnist = kinds.add_parser(
        "biased-mnist", help="locally biased smoothing, a digit against the rest", description=MNIST
    )
    mnist.add_argument("--data", required=True, help="mnist:DIR, or other images with classes; both splits are read")
    for kind in (spiral, mnist):
        _add_out(kind)
        kind.add_argument(
            "--seed", type=options.natural, default=0, metavar="N", help="of everything random (default: 0)"
        )
        kind.add_argument(
            "--threads", type=options.positive, metavar="N", help="CPU threads (default: as torch chooses)"
        )
    network = kinds.add_parser("network", help="a network of your own", description=NETWORK)
    options.add_model(network)
    options.add_data(network)
    options.add_eps(network)
    options.add_norm(network)
    options.add_method(network)
    _add_out(network)
    network.add_argument(
        "--programs",
        type=options.natural,
        default=10,
        metavar="N",
        help="inputs whose linear programs are solved; 0 for none (default: 10)",
    )
    options.add_common(network, limit=INPUTS)


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", required=True, type=options.folder, metavar="DIR", help="folder for the pictures, made if need be"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        UserError: wrong input, before anything is written.
    """
    kinds = {"toy": _toy, "network": _network, "biased-spiral": _biased_spiral, "biased-mnist": _biased_mnist}
    return kinds[args.kind](args)


def _toy(args: argparse.Namespace) -> int:
    import torch

    from verifix.cli.show import stages_meter
    from verifix.files import make_folder, refuse_other_run, write_json
    from verifix.report.style import plain
    from verifix.report.toy import ToySettings
    from verifix.report.toy_figures import draw_toy

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    folder, settings = Path(args.out), ToySettings(seed=args.seed)
    refuse_other_run(folder)
    make_folder(folder)
    write_json(folder / "settings.json", {"settings": plain(settings)})
    with stages_meter() as progress:
        results, cascade, written = draw_toy(folder, settings, progress)
    rows = {}
    for result in results:
        n = len(result.certified)
        proved, found = n - int(result.certified.sum()), int(result.attacked.sum())
        rows[result.name] = f"robust error at most {proved}/{n} (certificate), at least {found}/{n} (attack)"
    first, both = int(cascade.alone.sum()), int(cascade.certified.sum())
    rows["two stages"] = f"certify {both}/{settings.points} points closer together, the first alone {first}"
    broken = sum(result.broken for result in results) + cascade.broken
    _show(f"{settings.points} points, l_inf eps {settings.eps:g}", {**rows, **_names(written)})
    return 1 if broken else 0


def _biased_spiral(args: argparse.Namespace) -> int:
    import torch

    from verifix.cli.show import stages_meter
    from verifix.files import make_folder, refuse_other_run, write_json
    from verifix.report.biased_spiral import SpiralSettings, draw_biased_spiral
    from verifix.report.style import plain

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    folder, settings = Path(args.out), SpiralSettings(seed=args.seed)
    refuse_other_run(folder)
    make_folder(folder)
    write_json(folder / "settings.json", {"settings": plain(settings)})
    with stages_meter() as progress:
        result, written = draw_biased_spiral(folder, settings, progress)
    rows = {}
    for curve in result.curves:
        rows[f"{curve.norm}, average radius"] = (
            f"alpha {result.alphas[0]:g}: {curve.radius[0]:.3f}, alpha {result.alphas[-1]:g}: {curve.radius[-1]:.3f}; "
            f"with T1 to T3 {curve.tight_radius[0]:.3f}, {curve.tight_radius[-1]:.3f}"
        )
    rows["accuracy"] = f"{result.curves[0].accuracy[0]:.2%}, {result.curves[0].accuracy[-1]:.2%}"
    rows["attack"] = f"breaks {result.broken} certificates; within twice the radius {result.beyond:.0%} of points"
    _show("two spirals, locally biased smoothing of a linear classifier", {**rows, **_names(written)})
    return 1 if result.broken else 0


def _biased_mnist(args: argparse.Namespace) -> int:
    import torch

    from verifix.cli.show import stages_meter
    from verifix.data import load
    from verifix.errors import InvalidValue, UserError
    from verifix.files import make_folder, refuse_other_run, remove_empty, write_json
    from verifix.report.biased_mnist import OneDigitSettings
    from verifix.report.biased_mnist_figures import draw_biased_mnist
    from verifix.report.style import plain

    if args.data.endswith((":train", ":test")):
        raise InvalidValue("data", args.data, "both splits are read: name none")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    train, test = load(f"{args.data}:train"), load(f"{args.data}:test")
    folder, settings = Path(args.out), OneDigitSettings(seed=args.seed)
    refuse_other_run(folder)
    created = make_folder(folder)
    try:
        with stages_meter() as progress:
            result, written = draw_biased_mnist(folder, train, test, settings, progress)
    except UserError:
        remove_empty(created)
        raise
    write_json(folder / "settings.json", {"settings": plain(settings), "sources": {"data": args.data}})
    eps, curves = settings.more_radii[len(settings.more_radii) // 2], result.against_radius["l2"]
    place = settings.more_radii.index(eps)
    rows = {
        "base network": f"accuracy {result.biased[0, 0]:.2%}; under PGD, l2 eps {eps:g}, {curves['base'][place]:.2%}",
        f"alpha {settings.alpha:g}": f"{curves['biased'][place]:.2%} under the same; "
        f"{curves['adaptive'][place]:.2%} of the first {settings.attacked} under the adaptive attack",
        "1-nearest neighbour": f"accuracy {result.neighbour[0]:.2%}; under the same {curves['neighbour'][place]:.2%}",
        "certificates": f"the attack breaks {result.broken} of {result.certified.size}",
    }
    _show(f"{settings.digit} against the rest of {args.data}", {**rows, **_names(written)})
    return 1 if result.broken else 0


def _network(args: argparse.Namespace) -> int:
    from verifix.bounds import parse_method
    from verifix.cli.show import stages_meter
    from verifix.errors import InvalidValue, UserError
    from verifix.files import make_folder, refuse_other_run, remove_empty, write_json
    from verifix.report.network_figures import draw_network

    device = options.apply_common(args)
    ball = options.make_ball(args, args.eps)
    methods = parse_method(args.method)
    if len(methods) != 1:
        raise InvalidValue("method", args.method, "name one here: several have no linear program in common")
    data = options.load_data(args)
    model = options.load_network(args, data, device)
    folder = Path(args.out)
    refuse_other_run(folder)
    created = make_folder(folder)
    try:
        with stages_meter() as progress:
            drawn = draw_network(
                folder,
                model,
                data,
                ball,
                methods[0],
                programs=args.programs,
                memory=args.memory,
                seed=args.seed,
                progress=progress,
            )
    except UserError:
        remove_empty(created)
        raise
    settings = {"eps": args.eps, "norm": ball.norm, "box": args.box, "method": args.method, "dtype": args.dtype}
    settings |= {"inputs": len(data), "programs": args.programs, "device": device, **options.settings_of_model(args)}
    sources = options.sources_of_model(args, data)
    write_json(folder / "settings.json", {"settings": settings, "sources": sources})
    left_out = {f"no {name}": reason for name, reason in drawn.left_out.items()}
    _show(f"{args.model} on {args.data}", {**_names(drawn.written), **left_out})
    return 0


def _names(written: list[Path]) -> dict[str, str]:
    return {path.stem: str(path) for path in written}


def _show(title: str, rows: Mapping[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(Text(name), Text(value))
    Console().print(table)
