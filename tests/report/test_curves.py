from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread

from tests.train.examples import digits, network, settings
from verifix.report import training_curves
from verifix.train import train


def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """What is plotted from now on: the values of every curve of errors, by its name."""
    curves: dict[str, list[float]] = {}
    plot = Axes.plot

    def watch(axes: Axes, x: tuple[float, ...], y: tuple[float, ...], **options: object) -> object:
        curves[str(options["label"])] = list(y)
        return plot(axes, x, y, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Axes, "plot", watch)
    return curves


class TestTrainingCurves:
    def test_every_measure_has_its_curve(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        history = train(network(), digits(), settings(epochs=4, validation_every=2)).history
        curves = drawn(monkeypatch)
        training_curves(tmp_path / "curves.png", history)
        assert curves == {
            "robust, training": [epoch.train.robust_error for epoch in history],
            "standard, training": [epoch.train.error for epoch in history],
            "robust, validation": [epoch.validation.robust_error for epoch in history if epoch.validation],
            "standard, validation": [epoch.validation.error for epoch in history if epoch.validation],
        }
        assert len(curves["robust, validation"]) == 2
        assert imread(tmp_path / "curves.png").shape == (570, 1350, 4)
        assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]

    def test_standard_training_has_no_robust_curves(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        history = train(network(), digits(), settings(method="none", eps=0.0, validation=0)).history
        curves = drawn(monkeypatch)
        training_curves(tmp_path / "curves.png", history)
        assert list(curves) == ["standard, training"]
