"""Radii and detection on a network that the authors of the literature published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import verifix as vx
from verifix.attack import PGD
from verifix.data import Dataset, load
from verifix.graph import Graph
from verifix.models import load_model

WEIGHTS = "convex_adversarial/mnist.pth"


def network(data_dir: Path, models_dir: Path, n: int) -> tuple[Graph, Dataset]:
    data = load(f"mnist:{data_dir / 'mnist'}").first(n)
    weights, shape = f"{models_dir}/{WEIGHTS}", data.input_shape
    model = load_model("verifix.zoo:mnist_small", weights, None, None, input_shape=shape, dtype=torch.float32)
    return vx.capture(model, data.images[:2]), data


def check(graph: Graph, data: Dataset, records: list[dict[str, Any]]) -> None:
    """Certified at exactly the radius; not 1e-4 above it for 99 inputs of 100; equal to a bisection to 1e-5."""
    eps = torch.tensor([record["eps"] for record in records], dtype=torch.float64)
    own = torch.tensor([record["prediction"] for record in records])
    assert vx.certify(graph, data.images, own, vx.Ball("linf", eps), "cap").verified.all()
    above = vx.certify(graph, data.images, own, vx.Ball("linf", eps * (1 + 1e-4)), "cap")
    assert above.verified.double().mean() <= 0.01
    assert sum(record["evaluations"] for record in records) <= 8 * len(records)
    low, high = torch.zeros_like(eps), torch.full_like(eps, 0.5)
    while (high - low).max() > 1e-7:
        middle = (low + high) / 2
        verified = vx.certify(graph, data.images, own, vx.Ball("linf", middle), "cap").verified
        low, high = torch.where(verified, middle, low), torch.where(verified, high, middle)
    assert ((eps - low).abs() <= 1e-5).double().mean() >= 0.99


@pytest.mark.parametrize("n", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_radii(verifix: Callable[..., Any], data_dir: Path, models_dir: Path, tmp_path: Path, n: int) -> None:
    args = ["--weights", f"{models_dir}/{WEIGHTS}", "--data", f"mnist:{data_dir / 'mnist'}", "--limit", n]
    assert verifix("radius", "verifix.zoo:mnist_small", *args, "--out", tmp_path / "run").status == 0
    records = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    graph, data = network(data_dir, models_dir, n)
    check(graph, data, records)
    # the certificates at 0.1 are those that `verifix certify` counts
    at = vx.certify(graph, data.images, data.labels, vx.Ball("linf", 0.1), "cap").verified.tolist()
    assert at == [record["eps"] >= 0.1 and record["prediction"] == record["label"] for record in records]


def test_no_adversarial_example_passes(data_dir: Path, models_dir: Path) -> None:
    graph, data = network(data_dir, models_dir, 400)
    ball = vx.Ball("linf", 0.1, (0, 1))
    assert graph.model is not None
    right = graph.model(data.images).argmax(1) == data.labels
    x, y = data.images[right], data.labels[right]
    attack = PGD(steps=20, loss="margin")(graph.model, x, y, ball)
    assert attack.success.sum() >= 5
    flagged = vx.detect(graph, attack.examples, ball, "cap").flagged
    assert flagged[attack.success].all()
    assert vx.detect(graph, x, ball, "cap").flagged.sum() < 20  # and inputs that nobody has touched pass


@pytest.mark.slow
def test_flagged_of_the_whole_test_set(
    verifix: Callable[..., Any], data_dir: Path, models_dir: Path, tmp_path: Path
) -> None:
    args = ["--weights", f"{models_dir}/{WEIGHTS}", "--data", f"mnist:{data_dir / 'mnist'}", "--eps", "0.1"]
    assert verifix("detect", "verifix.zoo:mnist_small", *args, "--out", tmp_path / "run").status == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["flagged"], summary["accuracy"]) == (552, 0.982)
