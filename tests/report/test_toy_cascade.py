from __future__ import annotations

import numpy as np
import pytest
import torch

from verifix.report.boundary import BoundaryPanel
from verifix.report.toy import ToySettings
from verifix.report.toy_cascade import ToyCascade, toy_cascade


@pytest.fixture(scope="module")
def drawn() -> tuple[ToyCascade, list[BoundaryPanel], list[tuple[int, int]]]:
    seen: list[tuple[int, int]] = []
    found, panels = toy_cascade(ToySettings(), lambda done, total: seen.append((done, total)))
    return found, panels, seen


def test_certifies_what_one_stage_cannot(drawn: tuple[ToyCascade, list[BoundaryPanel], object]) -> None:
    found, panels, _ = drawn
    assert found.broken == 0
    assert found.certified.sum() > found.alone.sum()
    assert bool(found.certified[found.alone].all())
    assert len(panels) == 2
    assert sum(int(panel.certified.sum()) for panel in panels) == int(found.certified.sum())
    assert len(panels[0].points) == 12
    assert len(panels[1].points) == int((found.stages != 0).sum())
    assert f"{int(found.certified.sum())} of 12 points certified" in panels[1].title


def test_boxes_that_are_certified_have_one_class(drawn: tuple[ToyCascade, list[BoundaryPanel], object]) -> None:
    """By the stage that decides them, at every point of the grid."""
    for panel in drawn[1]:
        ticks = np.linspace(*panel.side, len(panel.classes))
        for (x, y), label, certified in zip(
            panel.points.tolist(), panel.labels.tolist(), panel.certified.tolist(), strict=True
        ):
            inside = (np.abs(ticks - y) <= panel.eps)[:, None] & (np.abs(ticks - x) <= panel.eps)
            assert inside.sum() > 100
            assert not certified or (panel.classes[inside] == label).all()


def test_progress(drawn: tuple[object, object, list[tuple[int, int]]]) -> None:
    steps = [done for done, _ in drawn[2]]
    assert steps == sorted(steps)
    assert drawn[2][-1] == (400, 400)


def test_everything_at_once() -> None:
    """Nothing is left for a second stage where the first certifies all."""
    settings = ToySettings(points=2, cascade_separation=0.5, cascade_widths=(2, 20, 2), cascade_steps=60)
    found, panels = toy_cascade(settings, lambda done, total: None)
    assert torch.equal(found.stages, torch.zeros(2, dtype=torch.int64))
    assert len(panels) == 1
