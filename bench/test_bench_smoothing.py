"""Smoothing from end to end against the loop of the literature; stopping early against a fixed number of samples."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from bench.measure import QUICK, compare, rounds, threads
from verifix.data import load
from verifix.smooth import SmoothedClassifier
from verifix.smooth.noise import Gaussian, Purpose, Samples
from verifix.smooth.sequential import Answer
from verifix.zoo import mnist_small

SIGMA = 0.5
N = 100_000
_SHARED = Path(__file__).resolve().parents[2] / "shared"


def _data() -> str:
    folder = Path(os.environ.get("VERIFIX_DATA", _SHARED / "data")) / "mnist"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: set VERIFIX_DATA to the folder above it")
    return f"mnist:{folder}"


def trained() -> nn.Module:
    """mnist-small after an epoch on noisy images: enough for it to be right about most inputs under noise."""
    torch.manual_seed(0)
    model, data = mnist_small(), load(f"{_data()}:train")
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for index in torch.randperm(len(data)).split(128):
        x = data.images[index]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x + SIGMA * torch.randn_like(x)), data.labels[index]).backward()
        optimizer.step()
    return model.eval()


def literature(model: nn.Module, x: Tensor, n: int, batch: int, classes: int = 10) -> Tensor:
    """Counts as published programs make them: copies, normal noise, argmax, a count for each batch."""
    counts = torch.zeros(classes, dtype=torch.int64)
    with torch.no_grad():
        while n > 0:
            size = min(batch, n)
            n -= size
            copies = x.repeat((size, 1, 1, 1))
            predictions = model(copies + torch.randn_like(copies) * SIGMA).argmax(1)
            counts += torch.bincount(predictions, minlength=classes)
    return counts


def _verified(smoothed: SmoothedClassifier, model: nn.Module, x: Tensor) -> dict[str, float]:
    """That votes are those of the network on the samples that are named."""
    votes = smoothed.votes(x, Purpose.ESTIMATION, count=500)
    samples = Samples(smoothed.seed, Purpose.ESTIMATION, torch.tensor([0]), 0, 500)
    with torch.no_grad():
        wanted = model(smoothed.noise.draw(x, samples)[0]).argmax(1).bincount(minlength=11)
    error = int((votes[0] - wanted).abs().sum())
    assert error == 0
    return {"error": float(error)}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("batch", [400, 1000])
def test_against_the_loop_of_the_literature(benchmark: BenchmarkFixture, batch: int, count: int) -> None:
    """One input, 100,000 samples."""
    n = N // 5 if QUICK else N
    torch.manual_seed(0)
    model, x = mnist_small().eval(), torch.randint(0, 256, (1, 1, 28, 28)) / 255
    sides = {
        "verifix": SmoothedClassifier(model, Gaussian(SIGMA), classes=10, batch=batch),
        "verifix, lattice": SmoothedClassifier(model, Gaussian(SIGMA, lattice=255), classes=10, batch=batch),
    }
    with threads(count):
        errors = {name: _verified(smoothed, model, x) for name, smoothed in sides.items()}
        run: dict[str, Any] = {
            name: lambda _, smoothed=smoothed: smoothed.votes(x, Purpose.ESTIMATION, count=n)
            for name, smoothed in sides.items()
        }
        run["randn, add, forward, argmax, bincount"] = lambda _: literature(model, x[0], n, batch)
        case = {"table": "votes of one input", "name": "mnist-small", "method": f"{n} samples, batch {batch}"}
        compare(benchmark, run, case=case | {"errors": errors}, count=rounds(7, 3))


@pytest.mark.parametrize("radius", [0.25, 0.5])
def test_stopping_early_against_a_fixed_number(benchmark: BenchmarkFixture, radius: float) -> None:
    """Whether an input is certified at a radius: by as many samples as that takes, and by 100,000."""
    inputs, alpha = 20 if QUICK else 100, 0.001
    model, data = trained(), load(_data())
    x = data.images[: inputs * 50 : 50]
    smoothed = SmoothedClassifier(model, Gaussian(SIGMA), classes=10)
    question: dict[str, Any] = {"n0": 100, "n": N, "alpha": alpha}
    with threads(2):
        found = smoothed.certify(x, radius=radius, **question)
        answers = found.answers
        assert answers is not None
        drawn = int(found.samples.sum())
        decided = {answer.name.lower(): int((answers == answer).sum()) for answer in Answer}
        case = {
            "table": "deciding a radius",
            "name": f"mnist-small, trained under noise, radius {radius:g}",
            "method": f"t-certify, alpha {alpha:g}",
            "errors": {},
            "samples": {"mean": drawn / inputs, "fewer": N * inputs / drawn, "answers": decided, "inputs": inputs},
        }
        sides = {
            "stopping early": lambda index: smoothed.certify(x[index : index + 1], radius=radius, **question),
            f"{N} samples": lambda index: smoothed.certify(x[index : index + 1], **question),
        }
        compare(benchmark, sides, case=case, count=rounds(15, 5))
