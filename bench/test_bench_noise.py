"""Noise and counting: against the network that they serve, and against torch's own random numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench.measure import QUICK, compare, rounds, threads
from verifix.kernels import noise_reference
from verifix.kernels.lattice import check_lattice, lattice_table
from verifix.kernels.noise import add_lattice_noise, add_noise, keep_or_replace
from verifix.kernels.votes import add_votes
from verifix.zoo import mnist_small

BATCH = 1000
SIGMA = 0.25
LAWS = ("gaussian", "laplace", "uniform")
INPUTS = torch.tensor([3])


def _image() -> Tensor:
    """An image of 256 values."""
    return torch.randint(0, 256, (1, 1, 28, 28), generator=torch.Generator().manual_seed(0)) / 255


def _names(start: int, count: int = BATCH) -> dict[str, Any]:
    return {"seed": 1, "purpose": 1, "start": start, "count": count}


def _differs(got: Tensor, wanted: Tensor) -> dict[str, float]:
    """The largest difference from plain torch, which is nothing."""
    error = float((got.flatten() - wanted.flatten()).abs().max())
    assert error == 0
    return {"error": error}


def _verified(x: Tensor, count: int = 50) -> dict[str, dict[str, float]]:
    """The first samples of every kind of noise against plain torch."""
    flat, table = x.reshape(1, -1), lattice_table("gaussian", SIGMA, 255)
    names = (1, 1, 0, count)
    errors = {}
    for law in LAWS:
        drawn = add_noise(x, INPUTS, law=law, scale=SIGMA, **_names(0, count))
        errors[law] = _differs(drawn, noise_reference.add_noise(flat, INPUTS, None, SIGMA, law, *names))
    on_lattice = add_lattice_noise(x, INPUTS, levels=255, table=table, **_names(0, count))
    positions = check_lattice(flat, 255)
    parts = (positions, x.dtype, INPUTS, table.thresholds, table.guide, table.guide_shift, 255)
    errors["lattice"] = _differs(on_lattice, noise_reference.add_lattice_noise(*parts, *names))
    kept = keep_or_replace(x, INPUTS, keep=0.5, levels=255, **_names(0, count))
    errors["keep or replace"] = _differs(
        kept, noise_reference.keep_or_replace(positions, x.dtype, INPUTS, 2**31, 255, *names)
    )
    return errors


@pytest.mark.parametrize("count", [1, 2])
def test_noise_and_counting_against_the_network(benchmark: BenchmarkFixture, count: int) -> None:
    """100,000 samples of an image through mnist-small in batches of 1000, and the noise and the counting of as many."""
    samples = 20 * BATCH if QUICK else 100 * BATCH
    x, table = _image(), lattice_table("gaussian", SIGMA, 255)
    torch.manual_seed(0)
    model = mnist_small().eval()
    noisy = add_noise(x, INPUTS, law="gaussian", scale=SIGMA, **_names(0))[0]

    def forward(_: int) -> None:
        for _ in range(0, samples, BATCH):
            model(noisy)

    def drawn_and_counted(on_lattice: bool) -> None:
        counts = torch.zeros(1, 11, dtype=torch.int64)
        for start in range(0, samples, BATCH):
            if on_lattice:
                add_lattice_noise(x, INPUTS, levels=255, table=table, **_names(start))
            else:
                add_noise(x, INPUTS, law="gaussian", scale=SIGMA, **_names(start))
            add_votes(logits, counts)
        assert int(counts.sum()) == samples

    def of_torch(_: int) -> None:
        counts = torch.zeros(10, dtype=torch.int64)
        for _ in range(0, samples, BATCH):
            x + torch.randn(BATCH, 1, 28, 28) * SIGMA
            counts += logits[0].argmax(1).bincount(minlength=10)

    with threads(count), torch.inference_mode():
        logits = model(noisy)[None]
        errors = _verified(x)
        sides = {
            "network": forward,
            "gaussian and counting": lambda _: drawn_and_counted(False),
            "lattice and counting": lambda _: drawn_and_counted(True),
            "torch: randn, add, argmax, bincount": of_torch,
        }
        case = {
            "table": "noise and counting against mnist-small",
            "name": "mnist-small",
            "method": f"{samples} samples",
            "errors": {
                "gaussian and counting": errors["gaussian"],
                "lattice and counting": errors["lattice"],
            },
        }
        compare(benchmark, sides, case=case, per=samples, count=rounds(7, 3))


@pytest.mark.parametrize("count", [1, 2])
def test_noise_against_randn(benchmark: BenchmarkFixture, count: int) -> None:
    """A thousand noisy copies of an image, by each kind of noise."""
    x = _image()
    tables = {law: lattice_table(law, SIGMA, 255) for law in LAWS}
    with threads(count), torch.inference_mode():
        sides: dict[str, Any] = {
            law: lambda index, law=law: add_noise(x, INPUTS, law=law, scale=SIGMA, **_names(index * BATCH))
            for law in LAWS
        }
        sides |= {
            f"lattice, {law}": lambda index, table=table: add_lattice_noise(
                x, INPUTS, levels=255, table=table, **_names(index * BATCH)
            )
            for law, table in tables.items()
        }
        sides["keep or replace"] = lambda index: keep_or_replace(
            x, INPUTS, keep=0.5, levels=255, **_names(index * BATCH)
        )
        sides["torch.randn, add"] = lambda _: x + torch.randn(BATCH, 1, 28, 28) * SIGMA
        errors = _verified(x)
        errors["lattice, gaussian"] = errors.pop("lattice")
        case = {"table": "noise", "name": f"{BATCH} x 784", "method": f"sigma {SIGMA}", "errors": errors}
        compare(benchmark, sides, case=case, per=BATCH, count=rounds(15, 9))
