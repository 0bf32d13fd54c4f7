"""Timing that a noisy machine cannot bend: sides take turns within a run, and only their ratios are to be trusted.

Each round runs every side once, one after the other, with one matrix product and one copy as the machine's own limits.
How much of the processors other programs took during a round is known from ``/proc``; medians are over the half of the
rounds in which that was least. Rounds are chosen by this alone, never by how long anything took.
"""

from __future__ import annotations

import itertools
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytest_benchmark.fixture import BenchmarkFixture

from verifix._version import __version__
from verifix.kernels import native

QUICK = os.environ.get("VERIFIX_BENCH_QUICK", "") not in ("", "0")
Side = Callable[[int], object]
"""Runs one side; the argument is the number of the round."""

_MATRIX = 1024
_COPIED = 1 << 25
_SHORT = 0.03


def rounds(full: int, quick: int) -> int:
    """How many rounds a case has, in a full or in a quick run."""
    return quick if QUICK else full


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Set torch's number of threads, which verifix follows."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compare(
    benchmark: BenchmarkFixture,
    sides: Mapping[str, Side],
    *,
    case: Mapping[str, Any],
    per: int = 1,
    count: int = 10,
    flops: Mapping[str, float] | None = None,
    traffic: Mapping[str, float] | None = None,
) -> None:
    """Time the sides in turn and store what was found; pytest-benchmark times the first one.

    Args:
        case: names and facts that go into the results as they are, ``errors`` among them.
        per: how many inputs a call decides; seconds are given for one.
        flops: floating-point operations for each side and input, where they are known.
        traffic: bytes that each side has to read and write for an input, where they are known.
    """
    limits = {"matrix product": matrix_product(), "copy": copy_of_memory()}
    everything: dict[str, Side] = {**limits, **sides}
    first = next(iter(sides))
    seconds: dict[str, list[float]] = {name: [] for name in everything}
    disturbance: list[float] = []
    number = itertools.count()
    began: list[tuple[float, float, float]] = []

    def timed(name: str, index: int) -> None:
        if seconds[name] and seconds[name][-1] < _SHORT:
            everything[name](index)  # so that it does not matter whose data the side before left in the caches
        start = time.perf_counter()
        everything[name](index)
        seconds[name].append(time.perf_counter() - start)

    def others() -> tuple[tuple[int], dict[str, Any]]:
        index = next(number)
        began.append(_processor_seconds())
        for name in everything:
            if name != first:
                timed(name, index)
        return (index,), {}

    def one(index: int) -> None:
        timed(first, index)
        disturbance.append(_share_of_others(began[-1], _processor_seconds()))

    benchmark.pedantic(one, setup=others, rounds=count, warmup_rounds=1)
    kept = sorted(range(1, count + 1), key=lambda i: disturbance[i])[: max(3, (count + 1) // 2)]
    found = {name: _summary([values[i] for i in kept], values[1:]) for name, values in seconds.items()}
    rate = 2 * _MATRIX**3 / found["matrix product"]["median"]
    result: dict[str, Any] = {
        **case,
        "inputs": per,
        "threads": torch.get_num_threads(),
        "rounds": count,
        "rounds_kept": len(kept),
        "share_of_other_programs": round(statistics.median(disturbance[i] for i in kept), 3),
        "matrix_gflops": round(rate / 1e9, 1),
        "copy_gbytes_per_second": round(2 * _COPIED / found["copy"]["median"] / 1e9, 1),
        "sides": {},
    }
    for name in sides:
        side: dict[str, Any] = {f"{key}_ms": value / per * 1e3 for key, value in found[name].items()}
        side["ratio"] = _ratio([seconds[name][i] / seconds[first][i] for i in kept], found[name], found[first])
        side["matrix_work_mflop"] = side["median_ms"] * rate / 1e9
        if flops is not None and name in flops:
            side["gflop"] = flops[name] / 1e9
            side["share_of_matrix_rate"] = flops[name] * per / found[name]["median"] / rate
        if traffic is not None and name in traffic:
            side["mbyte"] = traffic[name] / 1e6
            side["share_of_copy_rate"] = (
                traffic[name] * per / found[name]["median"] / (result["copy_gbytes_per_second"] * 1e9)
            )
        result["sides"][name] = side
    benchmark.extra_info |= {"case": result, "machine": machine()}


def _summary(kept: list[float], everything: list[float]) -> dict[str, float]:
    quarters = statistics.quantiles(kept, n=4, method="inclusive") if len(kept) > 1 else kept * 3
    return {"median": statistics.median(kept), "iqr": quarters[2] - quarters[0], "least": min(everything)}


def _ratio(pairs: list[float], side: Mapping[str, float], first: Mapping[str, float]) -> dict[str, float]:
    return {
        "of_medians": side["median"] / first["median"],
        "median_of_pairs": statistics.median(pairs),
        "of_least": side["least"] / first["least"],
    }


def matrix_product() -> Side:
    """One single-precision product of square matrices: the machine's matrix rate."""
    a, b = torch.randn(_MATRIX, _MATRIX), torch.randn(_MATRIX, _MATRIX)
    out = torch.empty(_MATRIX, _MATRIX)
    return lambda _: torch.mm(a, b, out=out)


def copy_of_memory() -> Side:
    """One copy of more bytes than the caches hold, each read and written."""
    source, target = torch.ones(_COPIED // 4), torch.zeros(_COPIED // 4)
    return lambda _: target.copy_(source)


def _processor_seconds() -> tuple[float, float, float]:
    """Wall time, processor time of all programs, and processor time of this one."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    busy = sum(fields) - fields[3] - fields[4]  # all but idle and waiting for a disk
    times = os.times()
    return time.perf_counter(), busy / os.sysconf("SC_CLK_TCK"), times.user + times.system


def _share_of_others(before: tuple[float, float, float], after: tuple[float, float, float]) -> float:
    wall, busy, own = (b - a for a, b in zip(before, after, strict=True))
    return max(0.0, (busy - own) / (wall * (os.cpu_count() or 1)))


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    processor = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "processor": processor,
        "processors": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "verifix": __version__,
        "instruction_set": native.isa(),
        "commit": _commit(),
        "quick": QUICK,
    }


def _commit() -> str:
    here = Path(__file__).resolve().parent
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return run.stdout.strip()
