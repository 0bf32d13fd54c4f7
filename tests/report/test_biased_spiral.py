from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from verifix.report.biased_spiral import SpiralSettings, draw_biased_spiral, spirals, support_vector_machine

SMALL = SpiralSettings(test=200, alphas=11, attacked=10, shown=(0.0, 10.0))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spiral")
    stages: list[tuple[str, int, int]] = []
    result, written = draw_biased_spiral(folder, SMALL, lambda *stage: stages.append(stage))
    assert [path.name for path in written] == ["regions.png", "radii.png"]
    assert {what for what, done, total in stages if done == total} == {"radii, l2", "radii, linf", "attack"}
    assert result.broken == 0 and result.beyond > 0.3
    return folder


def numbers(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def rises(values: Any) -> bool:
    """From a start to a clearly higher end, without falling more than a little on the way."""
    values = np.array(values)
    return bool(values[-1] > 1.03 * values[0] and (np.diff(values) > -0.003 * values[0]).all())


def test_figure_2_rises(drawn: Path) -> None:
    """Average radius, average true radius, in both norms, and the accuracy; tightenings are never below."""
    found = numbers(drawn, "radii")
    assert [curve["norm"] for curve in found["curves"]] == ["l2", "linf"]
    for curve in found["curves"]:
        assert rises(curve["radius"]) and rises(curve["true_radius"]) and rises(curve["accuracy"])
        for tight, printed in (("tight_radius", "radius"), ("tight_true_radius", "true_radius")):
            assert (np.array(curve[tight]) >= curve[printed]).all()
        assert np.mean(curve["tight_radius"]) > 1.01 * np.mean(curve["radius"])
        assert (np.array(curve["true_radius"]) <= curve["radius"]).all()
        assert curve["accuracy"][-1] == pytest.approx(found["neighbour_accuracy"], abs=0.01)
    l2, linf = (np.array(curve["radius"]) for curve in found["curves"])
    assert (linf <= l2).all() and (l2 <= 2**0.5 * linf * (1 + 1e-12)).all()


def test_starts_at_the_base_classifier(drawn: Path) -> None:
    """At alpha = 0 with tightenings the radius is the distance to the line."""
    found, regions = numbers(drawn, "radii"), numbers(drawn, "regions")
    a, b = torch.tensor(regions["a"], dtype=torch.float64), regions["b"]
    x = torch.tensor(regions["test"][0], dtype=torch.float64)
    expected = float(((x @ a + b).abs() / a.norm()).mean())
    assert found["curves"][0]["tight_radius"][0] == pytest.approx(expected, rel=1e-12)
    assert all((drawn / f"{name}.png").stat().st_size > 10_000 for name in ("regions", "radii"))


def test_reproducible(tmp_path: Path) -> None:
    tiny = replace(SMALL, test=40, alphas=3, attacked=3)
    for name, seed in (("first", 0), ("second", 0), ("other", 1)):
        (tmp_path / name).mkdir()
        torch.rand(3)  # another global random state
        draw_biased_spiral(tmp_path / name, replace(tiny, seed=seed), lambda *stage: None)
    for name in ("regions", "radii"):
        first, second, other = ((tmp_path / run / f"{name}.json").read_bytes() for run in ("first", "second", "other"))
        assert first == second != other


def test_support_vector_machine() -> None:
    """At the optimum the gradient of the loss vanishes, whatever the direction."""
    x, y = spirals(100, SpiralSettings(), torch.Generator().manual_seed(3))
    a, b = support_vector_machine(x, y, 0.01)
    w = torch.cat([a, torch.tensor([b])]).double().requires_grad_(True)
    loss = (1 - y * (x @ w[:2] + w[2])).clamp(min=0).square().mean() + 0.01 * w[:2].square().sum()
    (gradient,) = torch.autograd.grad(loss, w)
    assert gradient.abs().max() < 1e-3
