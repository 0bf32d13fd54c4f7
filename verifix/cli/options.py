"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import re

from verifix.errors import InvalidValue

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


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add ``--limit``, ``--seed``, ``--threads``, ``--device``."""
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N inputs")
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


def _keep_freed_memory() -> None:
    """Let the C library keep what is freed, where it is glibc: by default it hands large blocks back to the system and
    has them cleared again at the next use, which costs small passes half of their time. The peak stays what it is."""
    trim_threshold, mmap_threshold = -1, -3  # of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(mmap_threshold, 32 << 20)
        library.mallopt(trim_threshold, 2**31 - 1)
