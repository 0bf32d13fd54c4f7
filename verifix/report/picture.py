"""Pictures, drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from verifix.report.style import new_figure, write_figure


def accuracy_picture(
    path: Path, eps: Sequence[float], curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], title: str
) -> None:
    """Draw attacked and certified accuracy against eps, one colour per network; the truth lies in the shaded band.

    Args:
        path: where to write the picture; the suffix chooses the format.
        eps: radii, the horizontal axis.
        curves: for each network its attacked accuracies (upper line) and certified accuracies (lower line), fractions.
        title: of the picture.
    """
    from matplotlib.ticker import PercentFormatter

    figure = new_figure(7, 4.2)
    axes = figure.subplots()
    for number, (name, (attacked, certified)) in enumerate(curves.items()):
        colour = f"C{number}"
        axes.fill_between(eps, certified, attacked, color=colour, alpha=0.15, linewidth=0)
        axes.plot(eps, attacked, color=colour, marker="o", linestyle="--", label=f"{name}: survives the attack")
        axes.plot(eps, certified, color=colour, marker="o", label=f"{name}: certified")
    axes.set_xlabel("eps")
    axes.set_ylabel("accuracy")
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    axes.set_title(title)
    write_figure(path, figure)
