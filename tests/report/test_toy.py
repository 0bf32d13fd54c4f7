from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verifix.errors import InvalidValue
from verifix.report import draw_toy
from verifix.report.toy import ToySettings, random_network, toy_points, untrained_network

SMALL = ToySettings(
    points=4, separation=0.4, widths=(2, 20, 20, 2), lr=1e-2, steps=60, warm_up=20, random_widths=(2, 10, 2),
    radii=(0.05, 0.2), random_networks=2, parts=(0.5, 1.0),
    cascade_separation=0.16, cascade_widths=(2, 20, 2), cascade_steps=60,
)  # fmt: skip
PICTURES = ("boundary", "polytopes_random", "polytopes_trained", "tightness", "cascade")


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 8), st.floats(0.0, 0.25))
def test_points_are_apart(seed: int, points: int, separation: float) -> None:
    data = toy_points(points, separation, seed)
    x = data.images.double()
    gaps = (x[:, None] - x).abs().amax(2) + 10 * torch.eye(points)
    # the distance was compared in the points' own float32
    assert (gaps.float() >= torch.tensor(separation)).all()
    assert (x >= 0).all() and (x <= 1).all()
    assert torch.equal(data.images, toy_points(points, separation, seed).images)
    assert not torch.equal(data.images, toy_points(points, separation, seed + 1).images)


def test_no_room() -> None:
    with pytest.raises(InvalidValue, match=r"separation = 0\.9: leaves no room for 5 points in the unit square"):
        toy_points(5, 0.9)


def test_random_weights() -> None:
    """As section 3.2.2 says; the global random state is left alone."""
    state = torch.get_rng_state()
    model = random_network((2, 400, 400, 2), 1)
    assert torch.equal(state, torch.get_rng_state())
    weights, bias = model[2].weight.detach(), model[2].bias.detach()
    # 400 and 160,000 draws: five standard errors of the standard deviation
    assert abs(float(weights.std()) * 20 - 1) < 5 / (2 * weights.numel()) ** 0.5
    assert abs(float(bias.std()) - 1) < 5 / (2 * bias.numel()) ** 0.5
    other = untrained_network((2, 400, 400, 2), 1)
    assert not torch.equal(other[2].weight, model[2].weight)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    stages: list[tuple[str, int, int]] = []
    results, cascade, written = draw_toy(folder, SMALL, lambda *stage: stages.append(stage))
    assert [path.stem for path in written] == list(PICTURES)
    assert {what for what, done, total in stages if done == total} == {
        "standard training", "robust training", "linear programs", "cascade",
    }  # fmt: skip
    assert [result.broken for result in results] == [0, 0]
    assert cascade.broken == 0
    return folder


def numbers(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def test_files(drawn: Path) -> None:
    assert sorted(path.name for path in drawn.iterdir()) == sorted(
        f"{name}.{suffix}" for name in PICTURES for suffix in ("json", "png")
    )
    assert all((drawn / f"{name}.png").stat().st_size > 10_000 for name in PICTURES)


def test_robust_training_certifies_what_standard_training_does_not(drawn: Path) -> None:
    standard, robust = numbers(drawn, "boundary")["results"]
    assert sum(robust["certified"]) == SMALL.points
    assert sum(robust["attacked"]) == 0
    for result in (standard, robust):
        assert not any(a and b for a, b in zip(result["certified"], result["attacked"], strict=True))


def test_boundary_agrees_with_certificates(drawn: Path) -> None:
    """Every point of the grid that lies in a certified box has the class of the box."""
    for panel in numbers(drawn, "boundary")["panels"]:
        grid, (low, high) = np.array(panel["classes"]), panel["side"]
        ticks = np.linspace(low, high, len(grid))
        for (x, y), label, certified in zip(panel["points"], panel["labels"], panel["certified"], strict=True):
            inside = (np.abs(ticks - y) <= panel["eps"])[:, None] & (np.abs(ticks - x) <= panel["eps"])
            assert inside.sum() > 100
            assert not certified or (grid[inside] == label).all()


@pytest.mark.parametrize(("name", "shape"), [("polytopes_random", (2, 2)), ("polytopes_trained", (2, 3))])
def test_polygons_hold_what_is_reached(drawn: Path, name: str, shape: tuple[int, int]) -> None:
    rows = numbers(drawn, name)["rows"]
    assert (len(rows), len(rows[0])) == shape
    for panel in (panel for row in rows for panel in row):
        polygon = {key: np.array(value) for key, value in panel["polygon"].items()}
        values = np.array(panel["reached"]).reshape(-1, 2) @ polygon["directions"].T
        assert (values >= polygon["lower"]).all() and (values <= polygon["upper"]).all()


def test_dual_bounds_lie_below_their_programs(drawn: Path) -> None:
    panels = numbers(drawn, "tightness")["panels"]
    assert [panel["name"] for panel in panels] == ["robust training", "random weights", "standard training"]
    for panel in panels:
        program, dual, center = (np.array(panel[key]) for key in ("program", "dual", "center"))
        assert len(dual) == SMALL.points * 2
        assert (dual <= program).all() and (program <= center).all()


def test_reproducible(drawn: Path, tmp_path: Path) -> None:
    torch.rand(3)  # another global random state
    draw_toy(tmp_path, SMALL, lambda *stage: None)
    assert all((tmp_path / f"{n}.json").read_bytes() == (drawn / f"{n}.json").read_bytes() for n in PICTURES)


@pytest.mark.slow
def test_zero_robust_error(tmp_path: Path) -> None:
    """Section 3.2.1: robust training certifies every point, whatever the seed; standard training does not."""
    for seed in range(3):
        standard, robust = draw_toy(tmp_path, ToySettings(seed=seed), lambda *stage: None)[0]
        assert robust.certified.all()
        assert not standard.certified.all() and standard.attacked.any()
