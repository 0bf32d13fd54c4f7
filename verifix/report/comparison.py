"""The picture of a comparison of training methods."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from verifix.compare import Cell, CellResult
from verifix.report.style import BLUE, GREEN, ORANGE, new_figure, write_figure

_ERRORS = {"standard": ("standard", BLUE), "attacked": ("under attack (PGD)", ORANGE), "verified": ("verified", GREEN)}
_WIDTH = 0.26
_LETTERS = 13
"""Of a line of a name, if it can be broken."""


def comparison_picture(path: Path, results: Mapping[Cell, CellResult | None]) -> None:
    """Draw standard, attacked and verified error as bars, a panel for each radius and a group for each method.

    Bars are means over seeds, and each seed is a dot; the dash is the verified error by training's own bound alone. The
    error under the worst attack that there is lies between the second bar and the third. The picture, a PNG, is written
    whole or not at all.
    """
    from matplotlib.ticker import PercentFormatter

    radii = list(dict.fromkeys(cell.eps for cell in results))
    methods = list(dict.fromkeys(cell.method for cell in results))
    names = [_folded(method) for method in methods]
    width = max(0.85, *(0.09 * len(line) for name in names for line in name.splitlines()))  # of a method, in inches
    figure = new_figure(max(5.5, len(radii) * (1.2 + width * len(methods))), 4.4)
    panels = figure.subplots(1, len(radii), sharey=True, squeeze=False)[0]
    for panel, eps in zip(panels, radii, strict=True):
        panel.set_title(f"eps {eps:.4g}", fontsize="medium")
        for place, method in enumerate(methods):
            group = [result for cell, result in results.items() if (cell.method, cell.eps) == (method, eps)]
            _draw_group(panel, place, [result for result in group if result is not None])
        panel.set_xticks(range(len(methods)), names, fontsize="small")
        panel.set_xlim(-0.6, len(methods) - 0.4)
        panel.grid(axis="y", alpha=0.3)
        panel.set_axisbelow(True)
    panels[0].set_ylabel("error")
    panels[0].set_ylim(bottom=0)
    panels[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    _add_legend(figure)
    write_figure(path, figure)


def _draw_group(axes: Any, place: int, group: Sequence[CellResult]) -> None:
    """The bars of one method at one radius."""
    done = [result for result in group if result.status == "done"]
    if not done:
        what = "diverged" if group else "not done"
        axes.text(place, 0.03, what, transform=axes.get_xaxis_transform(), rotation=90, ha="center", color="0.4")
    for number, (name, (_, colour)) in enumerate(_ERRORS.items()):
        rates = _rates(done, name)
        x = place + (number - 1) * _WIDTH
        if rates:
            axes.bar(x, statistics.fmean(rates), 0.9 * _WIDTH, color=colour)
        if len(rates) > 1:
            axes.plot([x] * len(rates), rates, "o", color="black", markersize=3, alpha=0.6)
    own = _rates(done, "own")
    if own:
        x, mean = place + _WIDTH, statistics.fmean(own)
        axes.plot([x - _WIDTH / 2, x + _WIDTH / 2], [mean, mean], color="black", linewidth=1.5)


def _rates(results: Sequence[CellResult], name: str) -> list[float]:
    return [rate for result in results if (rate := result.rate(name)) is not None]


def _folded(method: str) -> str:
    """A long name on several lines: its settings below it, broken where one ends."""
    name, bracket, rest = method.partition("(")
    lines = []
    for part in filter(None, (name, bracket + rest)):
        lines.append("")
        for piece in re.split(r"(?<=[,:+])", part):
            if lines[-1] and len(lines[-1] + piece.rstrip()) > _LETTERS:
                lines.append("")
            lines[-1] += piece if lines[-1] else piece.lstrip()
    return "\n".join(line.rstrip() for line in lines)


def _add_legend(figure: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    patches: list[Any] = [Patch(color=colour, label=label) for label, colour in _ERRORS.values()]
    dash = Line2D([], [], color="black", linewidth=1.5, label="verified by training's own bound")
    columns = 4 if figure.get_figwidth() > 7 else 2
    figure.legend(handles=[*patches, dash], loc="outside lower center", ncols=columns, fontsize="small")
