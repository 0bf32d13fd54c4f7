"""Comparisons of small networks, and what they have found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.cli.written import summary_of

NETWORKS = """
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))

def ends_with_relu():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU())

def too_few_classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))

def for_vectors():
    return nn.Sequential(nn.Flatten(), nn.Linear(65, 10))
"""


def compare(*args: object, model: str = "networks:net", out: str = "run") -> list[object]:
    """A command line that is right, and what a test adds to it; of options named twice the last one counts."""
    usual = ["--data", "digits", "--box", "0", "1", "--methods", "ibp,crown-ibp", "--eps", "0.05", "--limit", "30"]
    usual += ["--train-limit", "90", "--epochs", "2", "--lr", "0.01", "--attack-steps", "10"]
    return ["compare", model, *usual, "--out", out, *args]


def cells(folder: Path) -> dict[str, dict[str, Any]]:
    return {cell["folder"]: cell for cell in summary_of(folder)["cells"]}


def found(folder: Path) -> list[dict[str, Any]]:
    """All that the comparison found, without what it cost."""
    costs = ("training_seconds", "validation_seconds", "seconds_per_epoch", "certification_seconds", "own_seconds")
    skip = (*costs, "attack_seconds", "peak_memory")
    return [{name: value for name, value in cell.items() if name not in skip} for cell in summary_of(folder)["cells"]]


def results(folder: Path) -> dict[str, bytes]:
    """What every run in it decided, and the weights."""
    paths = [*folder.glob("*/*/results.jsonl"), *folder.glob("*/train/*.safetensors")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(paths)}
