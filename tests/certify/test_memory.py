"""A byte budget holds: peak growth of a process that certifies stays under it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys
from pathlib import Path
import torch
import verifix as vx
from verifix import zoo
from verifix.bounds.tiles import least_memory

def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))

name, inputs, times, method = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
torch.manual_seed(0)
torch.set_num_threads(2)
small = torch.nn.Sequential(
    torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 26 * 26, 3)
)
pooled = torch.nn.Sequential(
    torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(3, 1), torch.nn.Conv2d(8, 8, 3),
    torch.nn.ReLU(), torch.nn.AvgPool2d(4, 1), torch.nn.Flatten(), torch.nn.Linear(8 * 21 * 21, 10),
)
model = pooled.eval() if name == "pooled" else getattr(zoo, name)().eval()
x = torch.rand(inputs, 1, 28, 28)
graph = vx.capture(model, x[:1])
y = graph(x).argmax(1)
vx.certify(small, x[:2], torch.zeros(2, dtype=torch.int64), vx.Ball("linf", 0.3), method)  # brings in libraries
budget = int(times * least_memory(graph, [torch.float32, torch.float64]))
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
found = vx.certify(graph, x, y, vx.Ball("linf", 0.05), method, memory=budget)
growth = resident("VmHWM") - before
print(json.dumps({"budget": budget, "growth": growth, "recomputed": int(found.recomputed.sum())}))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs the resident set that Linux reports")
@pytest.mark.parametrize(
    ("network", "inputs", "times", "method"),
    [
        ("mnist_small", 100, 1.0, "cap"),
        ("mnist_small", 100, 3.0, "crown-ibp"),
        ("mnist_large", 4, 1.0, "crown-ibp"),
        ("pooled", 40, 1.0, "cap"),
        ("mnist_small", 20, 4.0, "tight-smooth:restarts=2"),
        pytest.param("mnist_small", 10, 1.0, "tight-smooth:slopes=own", marks=pytest.mark.slow),
    ],
)
def test_growth_stays_under_the_budget(network: str, inputs: int, times: float, method: str) -> None:
    """Float64 included: with these radii some inputs are left to it."""
    command = [sys.executable, "-c", PROGRAM, network, str(inputs), str(times), method]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["recomputed"] > 0
    assert found["growth"] <= found["budget"]
