"""Learning curves, as in figure 3.6 of the thesis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from verifix.report.style import new_figure, write_figure
from verifix.train import Epoch, Measures

_STYLES = {"train": ("training", "--"), "validation": ("validation", "-")}
_COLOURS = {"robust": "C1", "standard": "C0", "votes of copies": "C1", "noisy copies": "C0"}


def training_curves(path: str | Path, history: Sequence[Epoch]) -> None:
    """Draw loss and error against epochs, standard and robust, on training and validation examples; of training for
    smoothing, those of noisy copies and of votes among them.

    The dotted line is the first epoch that ended at the last eps. The picture, a PNG, is written whole or not at all.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = new_figure(9, 3.8)
    left, right = figure.subplots(1, 2)
    noisy = history[0].train.noisy
    if not noisy:
        _draw(left, history, {"robust": lambda of: of.robust_loss, "standard": lambda of: of.loss})
        _draw(right, history, {"robust": lambda of: of.robust_error, "standard": lambda of: of.error})
    else:
        _draw(left, history, {"noisy copies": lambda of: of.loss})
        _draw(right, history, {"votes of copies": lambda of: of.smoothed_error, "noisy copies": lambda of: of.error})
    full = next((epoch.epoch for epoch in history if epoch.eps >= history[-1].eps), None)
    for axes, name in ((left, "cross-entropy"), (right, "error")):
        if full is not None and full > 1:
            axes.axvline(full, color="0.6", linestyle=":", linewidth=1, label=f"eps is {history[-1].eps:g}")
        axes.set_xlabel("epoch")
        axes.set_ylabel(name)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    (right if noisy else left).legend(fontsize="small")
    write_figure(Path(path), figure)


def _draw(
    axes: Any,
    history: Sequence[Epoch],
    values: Mapping[str, Callable[[Measures], float | None]],
) -> None:
    for name, value in values.items():
        for part, (label, line) in _STYLES.items():
            points = [
                (epoch.epoch, number)
                for epoch in history
                if (measures := getattr(epoch, part)) is not None and (number := value(measures)) is not None
            ]
            if points:
                marker = "o" if len(points) < 30 else None
                axes.plot(*zip(*points, strict=True), color=_COLOURS[name], linestyle=line, marker=marker, markersize=3,
                          label=f"{name}, {label}")  # fmt: skip
