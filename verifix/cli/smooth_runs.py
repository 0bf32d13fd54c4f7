"""``verifix smooth certify`` and ``verifix smooth predict``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from verifix.cli import options
from verifix.cli.show import progress_meter, show_rows
from verifix.data import Dataset
from verifix.errors import InvalidValue
from verifix.smooth.certify import EXACT, Question
from verifix.smooth.noise import Noise, Splitting, make_noise
from verifix.smooth.rules import proven_level
from verifix.smooth.run import predict_run, smooth_run
from verifix.text import percent_below, rounded_down

_PARAMETERS = ("sigma", "scale", "lattice", "keep", "null", "ground", "mass")


def certify(args: argparse.Namespace) -> int:
    """Run ``verifix smooth certify``."""
    device = options.apply_common(args)
    data = _load_data(args)
    noise = _make_noise(args, data)
    exact = isinstance(noise, Splitting) and noise.lattice is not None
    for name in ("radius", "relative_width"):
        if exact and getattr(args, name) is not None:
            remedy = "splitting noise on a lattice is tried completely, and nothing is gained: leave it out"
            raise InvalidValue(name, getattr(args, name), remedy)
    asked = (args.n0, args.n, args.alpha, args.rule, args.radius, args.relative_width)
    question = None if exact else Question(*asked)
    model = options.load_network(args, data, device)
    with progress_meter("smooth", "certified correct") as progress:
        summary = smooth_run(model, data, noise, question, progress=progress, **_arguments(args, data))
    _show(summary, args, data, _rows_of_certificates(summary))
    return 0


def predict(args: argparse.Namespace) -> int:
    """Run ``verifix smooth predict``."""
    device = options.apply_common(args)
    data = _load_data(args)
    noise = _make_noise(args, data)
    model = options.load_network(args, data, device)
    with progress_meter("smooth", "correct") as progress:
        summary = predict_run(
            model, data, noise, n=args.n, alpha=args.alpha, progress=progress, **_arguments(args, data)
        )
    rows = {"confidence": f"each answer is the most probable class with probability at least {_level(1 - args.alpha)}"}
    _show(summary, args, data, rows)
    return 0


def _load_data(args: argparse.Namespace) -> Dataset:
    """The inputs of ``--data`` of which every ``--skip``-th is taken: ``--limit`` of them."""
    if args.limit is not None:
        args.limit = (args.limit - 1) * args.skip + 1
    return options.load_data(args)


def _make_noise(args: argparse.Namespace, data: Dataset) -> Noise:
    """The noise of ``--noise`` with the parameters that are given."""
    given: dict[str, Any] = {name: getattr(args, name) for name in _PARAMETERS if getattr(args, name) is not None}
    if args.noise == "anisotropic":
        remedy = "has a scale for each coordinate: use verifix.smooth.noise.AnisotropicGaussian from Python"
        raise InvalidValue("noise", args.noise, remedy)
    if args.noise == "keep-or-replace":
        if "lattice" not in given:
            raise InvalidValue("lattice", None, "keep-or-replace noise needs it: the levels of inputs, such as 255")
        given["levels"] = given.pop("lattice")
    if args.noise in ("ablation", "uniform-ball"):
        given["coordinates"] = data.images[:1].numel()
    if args.noise == "ablation":
        if "keep" in given:
            given["keep"] = _whole("keep", given["keep"])
        if "null" in given and given["null"] != "channel":
            given["null"] = _number("null", given["null"])
    return make_noise(args.noise, **given)


def _whole(name: str, value: float) -> int:
    if not value.is_integer():  # nor are inf and nan
        raise InvalidValue(name, value, "ablation keeps a whole number of coordinates")
    return int(value)


def _number(name: str, text: str) -> float:
    try:
        return options.number(text)
    except argparse.ArgumentTypeError:
        raise InvalidValue(name, text, "must be a number, or channel") from None


def _arguments(args: argparse.Namespace, data: Dataset) -> dict[str, Any]:
    settings = options.settings_of_model(args)
    return {
        "out": args.out,
        "seed": args.seed,
        "skip": args.skip,
        "batch": args.batch,
        "resume": args.resume,
        "settings": settings,
        "sources": options.sources_of_model(args, data),
    }


def _rows_of_certificates(summary: Mapping[str, Any]) -> dict[str, str]:
    rule, alpha, n = summary["rule"], summary["alpha"], summary["n"]
    if rule == EXACT:
        confidence = "every outcome of the noise was tried: certificates hold surely"
    else:
        confidence = f"{rule}: each certificate holds with probability at least {_level(summary['confidence'])}"
        if summary["confidence"] < proven_level("certify", alpha):
            confidence += f", less than the {_level(1 - alpha)} that was asked for"
        confidence += f"; all {n} together with {_level(summary['confidence_of_all'])}"
    within = "up to and including" if summary["closed"] else "strictly within"
    noise = summary["settings"]["noise"]
    on_lattice = noise.get("lattice") is not None or "levels" in noise
    if summary["float_sound"]:
        arithmetic = "as computed" + (", on inputs of the lattice" if on_lattice else "")
    else:
        arithmetic = "in real arithmetic: not float sound" + (", see --lattice" if "lattice" in noise else "")
    accuracy = {
        f"at radius {rounded_down(entry['radius'])}": (
            f"{entry['accuracy']:.2%}, {percent_below(entry['corrected'])} is proven"
        )
        for entry in summary["certified_accuracy"]
    }
    average = {"average radius": rounded_down(summary["average_certified_radius"])}
    settings, answers = summary["settings"], {}
    if "answers" in summary:
        radius, width = settings["radius"], settings["relative_width"]
        what = f"radius {rounded_down(radius)}" if radius is not None else f"relative width {width:g}"
        answers[what] = ", ".join(f"{count} {answer}" for answer, count in summary["answers"].items())
    return {
        "certificates": f"{summary['norm']}, {within} the radius, {arithmetic}",
        "confidence": confidence,
        **answers,
        **accuracy,
        **({} if settings.get("radius") is not None else average),
    }


def _level(confidence: float) -> str:
    """Rounded down, but for the last bits of the float64, and never the 1 of what is certain."""
    return rounded_down(min(round(confidence, 12), 1 - 1e-12), 9)


def _show(summary: Mapping[str, Any], args: argparse.Namespace, data: Dataset, rows: Mapping[str, str]) -> None:
    """Print the table of a finished run."""
    settings, outcomes, n = summary["settings"], summary["outcomes"], summary["n"]
    family = dict(settings["noise"])
    noise = ", ".join([family.pop("name"), *(f"{key} {value}" for key, value in family.items() if value is not None)])
    invalid = {"invalid samples": f"{summary['invalid']}: NaN, each counted against its input"}
    everything = {
        "noise": noise,
        "inputs": f"{n} ({data.note})" if data.note else str(n),
        "answers": ", ".join(f"{count} {name}" for name, count in outcomes.items()),
        "accuracy": f"{summary['clean_accuracy']:.2%}",
        **rows,
        "samples": f"{summary['samples']} ({summary['samples'] / n:.0f} per input)",
        **(invalid if summary["invalid"] else {}),
        "seconds": f"{summary['seconds']:.1f} ({summary['seconds'] / n:.3f} per input)",
        "results": args.out,
    }
    show_rows(f"{settings['model']} on {settings['data']}", everything)
