"""How much the resident set grows while a case is certified, or trained on for a step, and how long that takes; each
in a process of its own.

``python -m bench.peak_memory CASE SIDE INPUTS BATCH MEMORY MOST`` prints megabytes and seconds; a side is
``verifix`` or ``convex_adversarial``, for a training step followed by ``.step:METHOD``. What a first small
batch brings in (libraries, thread stacks) does not count, nor do the inputs.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn


def in_new_process(
    case: str, side: str, *, inputs: int, batch: int, memory: int = 0, most: int = 0, seconds: float = 600
) -> dict[str, float] | str:
    """Peak growth in megabytes and seconds, once and without warming up; or what stopped it.

    Args:
        memory: byte budget handed to ``certify``; 0 for its default.
        most: bytes of address space that the process may have; 0 for no limit.
        seconds: how long it may take.
    """
    arguments = [case, side, *map(str, (inputs, batch, memory, most))]
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-m", "bench.peak_memory", *arguments]
    try:
        run = subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=seconds, check=False, env=os.environ.copy()
        )
    except subprocess.TimeoutExpired:
        return f"not done after {seconds:g} s"
    if "can't allocate memory" in run.stderr or "MemoryError" in run.stderr:
        return f"out of memory with {most / 1e6:.0f} MB"
    if run.returncode != 0:
        return f"failed: {run.stderr.strip().splitlines()[-1] if run.stderr.strip() else run.returncode}"
    found: dict[str, float] = json.loads(run.stdout.strip().splitlines()[-1])
    return found


def _field(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main(arguments: list[str]) -> dict[str, float]:
    from bench.cases import CASES, Case
    from bench.peers import convex_adversarial_margins, convex_adversarial_resnet
    from bench.steps import Step, convex_adversarial_step
    from verifix import certify

    name, side, *numbers = arguments
    inputs, batch, memory, most = map(int, numbers)
    case: Case = CASES[name]()
    torch.set_num_threads(2)
    small = CASES["dense-9"]()

    def run(this: Case, first: int, last: int) -> None:
        x, y = this.x[first:last], this.y[first:last]
        if side.startswith("verifix.step:"):
            Step(this, side.removeprefix("verifix.step:"))(x, y, 0)
            return
        if side == "convex_adversarial.step:cap":
            convex_adversarial_step(this.model, x, y, this.eps)
            return
        if side == "verifix":
            certify(this.graph, x, y, this.ball, "cap", memory=memory or None)
            return
        model = this.model
        if name == "cifar-resnet" and this is case and isinstance(model, nn.Sequential):
            model = convex_adversarial_resnet(model)
        convex_adversarial_margins(model, x, y, this.eps)

    run(small, 0, 2)
    if most:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before, began = _field("VmRSS"), time.perf_counter()
    for first in range(0, inputs, batch):
        run(case, first, min(first + batch, inputs))
    return {"growth": (_field("VmHWM") - before) / 1e6, "seconds": time.perf_counter() - began}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
