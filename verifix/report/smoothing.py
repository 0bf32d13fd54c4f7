"""Certified accuracy against radius, of one or several smoothed classifiers (Cohen et al. 2019, figure 6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from verifix.errors import InvalidValue
from verifix.report.style import CLASSES, new_figure, save_figure
from verifix.smooth.log import LogRow, average_certified_radius
from verifix.smooth.radii import round_radii
from verifix.text import rounded_down

_LINES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class SmoothedCurve:
    """What one run or log says of all its inputs.

    Attributes:
        name: for legend and table.
        norm: what radii are measured in.
        n: inputs.
        abstained, wrong, correct: they add up to ``n``; ``wrong`` ones hold a certificate for a class that is not the
            label.
        average_radius: mean of radius times correct.
        radii: of the correct inputs, increasing.
    """

    name: str
    norm: str
    n: int
    abstained: int
    wrong: int
    correct: int
    average_radius: float
    radii: list[float]

    @classmethod
    def of(cls, name: str, rows: Sequence[LogRow], norm: str = "l2") -> SmoothedCurve:
        """The curve of some rows.

        >>> rows = [LogRow(0, 7, 7, 0.5, 1.0), LogRow(1, 2, 3, 0.9, 1.0), LogRow(2, 1, -1, 0.0, 1.0)]
        >>> curve = SmoothedCurve.of("a", rows)
        >>> curve.n, curve.abstained, curve.wrong, curve.correct, curve.radii
        (3, 1, 1, 1, [0.5])
        """
        if not rows:
            raise InvalidValue("rows", "[]", "a curve needs at least one input")
        abstained = sum(row.prediction == -1 for row in rows)
        radii = sorted(row.radius for row in rows if row.correct)
        return cls(
            name=name,
            norm=norm,
            n=len(rows),
            abstained=abstained,
            wrong=len(rows) - abstained - len(radii),
            correct=len(radii),
            average_radius=average_certified_radius(rows),
            radii=radii,
        )

    def accuracy(self, radii: Sequence[float]) -> list[float]:
        """Certified accuracy at these radii: the fraction of all inputs that are correct with at least that radius."""
        ordered = np.asarray(self.radii)
        return [(self.correct - int(np.searchsorted(ordered, radius, side="left"))) / self.n for radius in radii]


def table_radii(curves: Sequence[SmoothedCurve]) -> list[float]:
    """Round numbers from 0 to the largest radius of any curve.

    >>> table_radii([SmoothedCurve("a", "l2", 2, 0, 0, 2, 1.0, [0.9, 1.9])])
    [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    """
    largest = max((curve.radii[-1] for curve in curves if curve.radii), default=0.0)
    return round_radii(largest, whole=all(curve.norm == "l0" for curve in curves))


def smoothing_table(curves: Sequence[SmoothedCurve], radii: Sequence[float]) -> list[list[str]]:
    """Header and rows: certified accuracy in percent at each radius, and the counts behind it, as text."""
    header = ["", *(f"r = {radius:g}" for radius in radii), "ACR", "correct", "wrong", "abstained", "inputs"]
    rows = [
        [
            curve.name,
            *(_percent(value) for value in curve.accuracy(radii)),
            rounded_down(curve.average_radius, 4),
            *map(str, (curve.correct, curve.wrong, curve.abstained, curve.n)),
        ]
        for curve in curves
    ]
    return [header, *rows]


def _percent(value: float) -> str:
    """Rounded down, like the radii: ``0.9996`` is 99.9."""
    return f"{math.floor(value * 1000 + 1e-9) / 10:.1f}"


def markdown(table: Sequence[Sequence[str]]) -> str:
    """The same as a Markdown table.

    >>> print(markdown([["", "r = 0"], ["a", "98.0"]]))
    |  | r = 0 |
    | --- | --- |
    | a | 98.0 |
    """
    lines = [table[0], ["---"] * len(table[0]), *table[1:]]
    escaped = ([text.replace("|", "\\|") for text in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def common_norm(curves: Sequence[SmoothedCurve]) -> str:
    """The norm that the radii of all curves are measured in.

    Raises:
        InvalidValue: curves of different norms, which share no axis; none at all.
    """
    norms = sorted({curve.norm for curve in curves})
    if len(norms) != 1:
        named = ", ".join(f"{curve.name} ({curve.norm})" for curve in curves) or "none"
        raise InvalidValue("curves", named, "radii of one norm share a figure: draw the others on their own")
    return norms[0]


def smoothing_picture(path: str | Path, curves: Sequence[SmoothedCurve], title: str = "") -> None:
    """Draw certified accuracy against radius, one line for each curve, with the numbers as JSON beside it.

    Each file is written whole or not at all.

    Raises:
        InvalidValue: curves of different norms, which share no axis; none at all.
    """
    from matplotlib.ticker import PercentFormatter

    norm = common_norm(curves)
    figure = new_figure(7, 4.2)
    axes = figure.subplots()
    for number, curve in enumerate(curves):
        x, y = _steps(curve)
        colour, line = CLASSES[number % len(CLASSES)], _LINES[number // len(CLASSES) % len(_LINES)]
        label = f"{curve.name} (ACR {rounded_down(curve.average_radius, 3)})"
        axes.step(x, y, where="pre", color=colour, linestyle=line, label=label)
    axes.set_xlabel(f"{norm} radius")
    axes.set_ylabel("certified accuracy")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    if title:
        axes.set_title(title)
    save_figure(Path(path), figure, {"curves": list(curves)})


def _steps(curve: SmoothedCurve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The curve as a step function that holds its value up to and including each radius, and falls to 0 after the last.

    >>> x, y = _steps(SmoothedCurve("a", "l2", 4, 1, 0, 3, 0.5, [0.5, 0.5, 1.0]))
    >>> x.tolist(), y.tolist()
    ([0.0, 0.5, 1.0, 1.0], [0.75, 0.75, 0.25, 0.0])
    """
    x = np.unique(np.asarray([0.0, *curve.radii]))
    return np.append(x, x[-1]), np.append(np.asarray(curve.accuracy(x.tolist())), 0.0)
