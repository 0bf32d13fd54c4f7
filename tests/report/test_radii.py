from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from verifix.report import radius_picture
from verifix.report.radii import moving_fraction


@pytest.mark.parametrize("n", [1, 2, 300])
def test_picture(tmp_path: Path, n: int) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "radius.png"
    radius_picture(path, rng.random(n).tolist(), (rng.random(n) < 0.5).tolist(), "a title")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [entry.name for entry in tmp_path.iterdir()] == ["radius.png"]


@pytest.mark.parametrize("n", [1, 2, 7, 100, 1001])
def test_moving_fraction_is_the_mean_of_the_neighbours(n: int) -> None:
    correct = np.random.default_rng(n).random(n) < 0.7
    reach = max(1, round(n * 0.01))
    wanted = [correct[max(i - reach, 0) : i + reach + 1].mean() for i in range(n)]
    np.testing.assert_allclose(moving_fraction(correct), wanted)
