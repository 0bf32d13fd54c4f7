"""The picture of a comparison."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from verifix.compare import Cell, CellResult, Errors
from verifix.compare.settings import split_method
from verifix.report import comparison
from verifix.train import TrainSettings

LONG = ("ibp", "crown-ibp(beta=(1, 0))", "crown-ibp(lr=1000)", 'cap(optimiser="sgd",lr=1000)', "cap")
LONGER = ("interval:random:p=0:q=0.5", "tight-smooth:slopes=own:start=same", "ibp(initialisation='ibp',clip=10)")


@pytest.mark.parametrize(
    ("methods", "radii"),
    [(("ibp",), (0.1,)), (("ibp", "cap", "crown-ibp"), (0.05, 0.1, 0.2)), (LONG, (0.1,)), (LONGER, (0.1, 0.2))],
)
def test_the_legend_fits_and_no_names_touch(
    methods: tuple[str, ...], radii: tuple[float, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(comparison, "write_figure", lambda path, figure: drawn.append(figure))
    errors = Errors(n=10, standard=1, attacked=2, verified=3, own=4, undecided=0)
    results = {
        Cell(method, eps, 0, TrainSettings(method=split_method(method)[0], eps=eps)): CellResult(
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
    for panel in figure.axes:
        boxes = [label.get_window_extent() for label in panel.get_xticklabels()]
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
