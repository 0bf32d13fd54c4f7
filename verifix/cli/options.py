"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verifix.errors import InvalidValue

if TYPE_CHECKING:  # torch is loaded by the commands that need it, not for --help
    from torch import nn

    from verifix.data import Dataset
    from verifix.sets import Ball, Union, Wasserstein

WASSERSTEIN = ("ground", "window", "mass", "variant", "transport")
"""The options that go with ``--norm wasserstein`` only."""
_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def number(text: str) -> float:
    """A number, or a quotient of two.

    >>> number("8/255"), number("0.1"), number("1e-3")
    (0.03137254901960784, 0.1, 0.001)
    """
    try:
        if "/" in text:
            above, below = text.split("/")
            return float(above) / float(below)
        return float(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is no number: write it as 0.1 or 8/255") from None


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def natural(text: str) -> int:
    """A whole number of at least 0, below 2**63 as torch's seeds are."""
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0 and below 2**63")
    return int(text)


def folder(text: str) -> str:
    """A folder that is named: an empty text, such as an unset variable of a shell, is not the current one."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is no folder: name one, such as runs/first (. is the current one)")
    return text


def byte_count(text: str) -> int:
    """A number of bytes, with or without a unit.

    >>> byte_count("2GiB"), byte_count("500 MB"), byte_count("4096")
    (2147483648, 500000000, 4096)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)", text.strip())
    if match is None or match[2].lower() not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of memory: write it as 2GiB or 500MB")
    count = int(float(match[1]) * _UNITS[match[2].lower()])
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of memory: it must be at least one byte")
    return count


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add ``MODEL``, ``--weights``, ``--mean``, ``--std``, ``--dtype``; see :func:`load_network`."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="package.module:callable, with literal arguments if need be, as in 'verifix.zoo:mnist_wide(k=4)'; "
        "or a .pt2 file that torch.export.save wrote; only ones that you trust",
    )
    parser.add_argument(
        "--weights", metavar="FILE", help=".safetensors, .pth or .pt; FILE#0 takes one of several state dicts"
    )
    parser.add_argument(
        "--mean", nargs="+", type=number, metavar="M", help="per channel, subtracted in front of the network"
    )
    parser.add_argument("--std", nargs="+", type=number, metavar="S", help="per channel, divided by after that")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="(default: float32)")


def add_data(parser: argparse.ArgumentParser, split: str = "test") -> None:
    """Add ``--data``; see :func:`load_data`."""
    splits = " or ".join(f":{name} (default)" if name == split else f":{name}" for name in ("train", "test"))
    parser.add_argument(
        "--data", required=True, help=f"digits, mnist:DIR, cifar10:DIR or npz:FILE, each with {splits} after it"
    )


def add_eps(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add ``--eps``."""
    parser.add_argument(
        "--eps", required=required, type=number, help="radius in units of the raw input, such as 0.1 or 8/255"
    )


def add_norm(parser: argparse.ArgumentParser) -> None:
    """Add ``--norm`` and ``--box``; see :func:`make_ball`."""
    parser.add_argument("--norm", default="linf", help="linf, l2 or l1 (default: linf)")
    parser.add_argument(
        "--box", nargs=2, type=number, metavar=("LO", "HI"), help="the range that every input stays in (default: none)"
    )


def add_threat(parser: argparse.ArgumentParser) -> None:
    """Add ``--norm`` and ``--box``, and what ``--norm wasserstein`` takes; see :func:`make_threat`."""
    parser.add_argument("--norm", default="linf", help="linf, l2, l1 or wasserstein (default: linf)")
    parser.add_argument(
        "--box", nargs=2, type=number, metavar=("LO", "HI"), help="the range that every input stays in (default: none)"
    )
    group = parser.add_argument_group("with --norm wasserstein")
    group.add_argument("--ground", help="euclidean, squared-euclidean or l1, in pixels (default: euclidean; flow: l1)")
    group.add_argument("--window", type=positive, metavar="K", help="mass moves inside K x K pixels, odd (default: 5)")
    group.add_argument("--mass", help="normalised: eps is in fractions of the mass; raw (default: normalised)")
    group.add_argument("--variant", help="balanced, balanced-box or clamp-after (default: balanced)")
    group.add_argument("--transport", help="local: inside the window; flow: any distance (default: local)")


def add_union(parser: argparse.ArgumentParser) -> None:
    """Add ``--union``; see :func:`make_union`."""
    parser.add_argument(
        "--union",
        metavar="BALLS",
        help="a union of balls in place of --norm, such as linf:0.3,l2:1.5,l1:12; --eps is then a factor of them all "
        "(default: 1)",
    )


def add_estimator(parser: argparse.ArgumentParser) -> None:
    """Add ``--estimator``."""
    parser.add_argument(
        "--estimator",
        default="exact",
        help="how norms in hidden bounds are evaluated: exact, median:K, gaussian:K (l2), geometric, geometric:K, "
        "geometric:KxM (default: exact)",
    )


def add_method(parser: argparse.ArgumentParser) -> None:
    """Add ``--method`` and ``--memory``."""
    parser.add_argument(
        "--method",
        default="cap",
        help="ibp, crown-ibp, cap-ibp, tight-smooth, cap, crown, or choices such as filtered:same; several joined by "
        "+; tight-smooth takes options, as in tight-smooth:restarts=3:seed=1 (steps, step, start=uniform|same|adaptive|"
        "zero|one, slopes=shared|own, restarts, seed), and interval:random takes p, q and seed (default: cap)",
    )
    add_memory(parser)


def add_memory(parser: argparse.ArgumentParser, default: int | None = None) -> None:
    """Add ``--memory``."""
    usual = "a quarter of what is free" if default is None else f"{default >> 20} MiB"
    parser.add_argument(
        "--memory",
        type=byte_count,
        default=default,
        metavar="BYTES",
        help=f"budget for all that is computed, such as 2GiB (default: {usual})",
    )


def add_run(parser: argparse.ArgumentParser, batch: int = 50) -> None:
    """Add ``--out``, ``--resume``, ``--batch`` of a run that decides one input after the other."""
    parser.add_argument(
        "--out", required=True, type=folder, metavar="RUN", help="folder for the results, made if need be"
    )
    parser.add_argument("--resume", action="store_true", help="continue the results in RUN")
    parser.add_argument(
        "--batch",
        type=positive,
        default=batch,
        metavar="N",
        help=f"inputs decided together and written at once (default: {batch})",
    )


def add_checkpoint_seconds(parser: argparse.ArgumentParser) -> None:
    """Add ``--checkpoint-seconds``."""
    parser.add_argument(
        "--checkpoint-seconds",
        type=number,
        default=300.0,
        metavar="S",
        help="time between two checkpoints within an epoch; there is one after each anyway (default: 300)",
    )


def add_common(parser: argparse.ArgumentParser, limit: int | None = None) -> None:
    """Add ``--limit``, ``--seed``, ``--threads``, ``--device``."""
    usual = "all" if limit is None else limit
    parser.add_argument(
        "--limit", type=positive, default=limit, metavar="N", help=f"only the first N inputs (default: {usual})"
    )
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="of everything random (default: 0)")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: as torch chooses)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")


def apply_common(args: argparse.Namespace) -> str:
    """Set seed and threads, and return the device.

    Raises:
        InvalidValue: a device that is not there.
    """
    import torch  # here, so that --help need not wait for it

    _keep_freed_memory()
    torch.manual_seed(args.seed)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    try:
        device = torch.device(args.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InvalidValue("device", args.device, f"cannot be used here: {reason}") from None
    if device.type not in ("cpu", "cuda"):
        raise InvalidValue("device", args.device, "use cpu, cuda or cuda:N")
    return str(device)


def make_ball(args: argparse.Namespace, eps: float) -> Ball:
    """The ball of ``--norm`` and ``--box``, of radius ``eps``.

    Raises:
        InvalidValue: a norm, box or radius that cannot be.
    """
    from verifix.sets import Ball

    return Ball(args.norm, eps, None if args.box is None else (args.box[0], args.box[1]))


def make_threat(args: argparse.Namespace, eps: float) -> Ball | Wasserstein:
    """What the options of :func:`add_threat` say, of radius ``eps``.

    Raises:
        InvalidValue: an option that cannot be, or that does not go with the norm.
    """
    from verifix.sets import Wasserstein
    from verifix.sets.ball import NORMS, SPELLINGS

    given = {name: getattr(args, name) for name in WASSERSTEIN if getattr(args, name) is not None}
    if args.norm != "wasserstein":
        for name, value in given.items():
            raise InvalidValue(name, value, "goes with --norm wasserstein only")
        if args.norm.lower() not in SPELLINGS:
            raise InvalidValue("norm", repr(args.norm), f"choose one of {', '.join(NORMS)}, wasserstein")
        return make_ball(args, eps)
    if given.get("transport") == "flow":
        if "window" in given:
            raise InvalidValue("window", given["window"], "transport flow knows no window: leave --window out")
        given = {"ground": "l1", "window": None} | given
    if args.box is not None:
        if given.get("variant", "balanced") == "balanced":
            raise InvalidValue("box", args.box, "variant balanced knows no box: give balanced-box or clamp-after")
        given["box"] = (args.box[0], args.box[1])
    return Wasserstein(eps, **given)


def make_union(args: argparse.Namespace) -> Union | None:
    """The union of ``--union`` and ``--box``, each radius times ``--eps``; None where there is no ``--union``.

    Raises:
        InvalidValue: balls that cannot be, or another option that does not go with them; neither ``--union`` nor
            ``--eps``.
    """
    from verifix.sets import Union

    if args.norm == "union" and args.union is None:
        raise InvalidValue("norm", args.norm, "name its balls, as in --union linf:0.3,l2:1.5,l1:12")
    if args.union is None:
        if args.eps is None:
            raise InvalidValue("eps", None, "name the radius, such as --eps 0.1")
        return None
    if args.norm not in ("linf", "union"):  # linf is what nobody has to say
        raise InvalidValue("norm", repr(args.norm), "--union says which norms: leave it out")
    for name in WASSERSTEIN:
        if getattr(args, name) is not None:
            raise InvalidValue(name, getattr(args, name), "goes with --norm wasserstein only")
    factor = 1.0 if args.eps is None else args.eps
    if not 0 <= factor < float("inf"):
        raise InvalidValue("eps", factor, "must be finite and >= 0")
    return Union.parse(args.union, None if args.box is None else (args.box[0], args.box[1])).scaled(factor)


def load_data(args: argparse.Namespace, split: str = "test") -> Dataset:
    """The inputs of ``--data``, the first ``--limit`` of them, in ``--dtype``; ``split`` where ``--data`` names none.

    Raises:
        InvalidValue: what is wrong with the data, by name.
    """
    import torch

    from verifix.data import load

    data = load(args.data, split).to(getattr(torch, args.dtype))
    return data if args.limit is None else data.first(args.limit)


def load_network(args: argparse.Namespace, data: Dataset, device: str) -> nn.Module:
    """``MODEL`` with ``--weights`` behind ``--mean`` and ``--std``, for inputs such as ``data``'s, in eval mode.

    Raises:
        InvalidValue: what is wrong with the network or its weights, by name.
    """
    from verifix.models import load_model

    allow_own_modules()
    shape, dtype = data.input_shape, data.images.dtype
    return load_model(args.model, args.weights, args.mean, args.std, input_shape=shape, dtype=dtype).to(device)


def load_cascade(args: argparse.Namespace, data: Dataset, device: str) -> list[nn.Module] | None:
    """The stages, where ``MODEL`` is a cascade file or ``--weights`` holds several state dicts; else None.

    Raises:
        InvalidValue: what is wrong with a stage or its weights, by name.
    """
    from verifix.models import load_stages

    allow_own_modules()
    shape, dtype = data.input_shape, data.images.dtype
    stages = load_stages(args.model, args.weights, args.mean, args.std, input_shape=shape, dtype=dtype)
    return stages and [stage.to(device) for stage in stages]


def allow_own_modules() -> None:
    """Let the network be a module of the user's own, in the working folder."""
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # so that MODEL may be a module of the user's own


def run_arguments(args: argparse.Namespace, data: Dataset) -> dict[str, Any]:
    """What the library's runs take from :func:`add_run`, :func:`add_method` and the model's arguments."""
    return {
        "out": args.out,
        "method": args.method,
        "batch": args.batch,
        "memory": args.memory,
        "resume": args.resume,
        "settings": settings_of_model(args),
        "sources": sources_of_model(args, data),
    }


def settings_of_model(args: argparse.Namespace) -> dict[str, Any]:
    """What only the command line knows of a run's settings; the rest is added by the run itself."""
    from verifix.weights import weights_path

    weights = args.weights and hashlib.sha256(weights_path(args.weights)[0].read_bytes()).hexdigest()
    return {"model": args.model, "weights_sha256": weights, "mean": args.mean, "std": args.std, "seed": args.seed}


def sources_of_model(args: argparse.Namespace, data: Dataset) -> dict[str, Any]:
    """What a reader of a run should know of where things came from; never compared."""
    return {"data": args.data, "weights": args.weights, "note": data.note}


def _keep_freed_memory() -> None:
    """Let the C library keep what is freed, where it is glibc: by default it hands large blocks back to the system and
    has them cleared again at the next use, which costs small passes half of their time. The peak stays what it is."""
    trim_threshold, mmap_threshold = -1, -3  # of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(mmap_threshold, 32 << 20)
        library.mallopt(trim_threshold, 2**31 - 1)
