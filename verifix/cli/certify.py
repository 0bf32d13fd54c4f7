"""``verifix certify``: which inputs of a data set hold a certificate, and which do not."""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path
from typing import Any

from verifix.cli.options import add_common, apply_common, byte_count, number, positive

DESCRIPTION = """Decide for every input of a data set whether any perturbation in a ball around it can change the
answer. Results are appended to RUN/results.jsonl as soon as they are decided; a run that was stopped, in whatever way,
continues with --resume. RUN/summary.json is written at the end."""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the arguments of this command."""
    parser = subparsers.add_parser("certify", help="certify a network on a data set", description=DESCRIPTION)
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
        "--data",
        required=True,
        help="digits, mnist:DIR, cifar10:DIR or npz:FILE, each with :train or :test (default) after it",
    )
    parser.add_argument(
        "--eps", required=True, type=number, help="radius in units of the raw input, such as 0.1 or 8/255"
    )
    parser.add_argument("--norm", default="linf", help="linf, l2 or l1 (default: linf)")
    parser.add_argument(
        "--method",
        default="cap",
        help="ibp, crown-ibp, cap, crown, or choices such as filtered:same; several joined by + (default: cap)",
    )
    parser.add_argument(
        "--box", nargs=2, type=number, metavar=("LO", "HI"), help="the range that every input stays in (default: none)"
    )
    parser.add_argument(
        "--mean", nargs="+", type=number, metavar="M", help="per channel, subtracted in front of the network"
    )
    parser.add_argument("--std", nargs="+", type=number, metavar="S", help="per channel, divided by after that")
    parser.add_argument("--out", required=True, metavar="RUN", help="folder for the results, made if need be")
    parser.add_argument("--resume", action="store_true", help="continue the results in RUN")
    parser.add_argument(
        "--batch",
        type=positive,
        default=50,
        metavar="N",
        help="inputs decided together and written at once (default: 50)",
    )
    parser.add_argument(
        "--memory",
        type=byte_count,
        metavar="BYTES",
        help="budget for all that is computed, such as 2GiB (default: a quarter of what is free)",
    )
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="(default: float32)")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command; 0 when every input is decided.

    Raises:
        UserError: wrong input, before anything is written.
        RunInterrupted: stopped by the user.
    """
    import torch

    from verifix.bounds import parse_method
    from verifix.certify.run import certify_run
    from verifix.cli.show import progress_meter, show_summary
    from verifix.data import load
    from verifix.models import load_model
    from verifix.sets import Ball

    device, dtype = apply_common(args), getattr(torch, args.dtype)
    ball = Ball(args.norm, args.eps, None if args.box is None else (args.box[0], args.box[1]))
    parse_method(args.method)
    data = load(args.data).to(dtype)
    if args.limit is not None:
        data = data.first(args.limit)
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # so that MODEL may be a module of the user's own
    shape = data.input_shape
    model = load_model(args.model, args.weights, args.mean, args.std, input_shape=shape, dtype=dtype).to(device)
    with progress_meter() as progress:
        summary = certify_run(
            model,
            data,
            ball,
            out=args.out,
            method=args.method,
            batch=args.batch,
            memory=args.memory,
            resume=args.resume,
            settings=_settings(args),
            sources={"data": args.data, "weights": args.weights, "note": data.note},
            progress=progress,
        )
    show_summary(summary, args.out, data.note)
    return 0


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """What only the command line knows of the settings; the rest is added by the run itself."""
    from verifix.weights import weights_path

    weights = args.weights and hashlib.sha256(weights_path(args.weights)[0].read_bytes()).hexdigest()
    return {"model": args.model, "weights_sha256": weights, "mean": args.mean, "std": args.std, "seed": args.seed}
