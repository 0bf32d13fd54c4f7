"""The picture of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from verifix.compare import Cell, CellResult, Errors
from verifix.report import comparison
from verifix.train import TrainSettings


@pytest.mark.parametrize(("methods", "radii"), [(("ibp",), (0.1,)), (("ibp", "cap", "crown-ibp"), (0.05, 0.1, 0.2))])
def test_the_legend_fits_the_picture(
    methods: tuple[str, ...], radii: tuple[float, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(comparison, "write_figure", lambda path, figure: drawn.append(figure))
    errors = Errors(n=10, standard=1, attacked=2, verified=3, own=4, undecided=0)
    results = {
        Cell(method, eps, 0, TrainSettings(method=method, eps=eps)): CellResult(
            method, eps, eps, 0, "done", errors=errors
        )
        for method in methods
        for eps in radii
    }
    comparison.comparison_picture(tmp_path / "compare.png", results)
    (figure,) = drawn
    figure.canvas.draw()
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 >= 0
    assert legend.x1 <= figure.bbox.x1
