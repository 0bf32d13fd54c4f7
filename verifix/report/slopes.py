"""Which slopes free lines have while networks are trained, as figure 2 (right) of Lee et al."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from verifix.report.landscape import averaged, ramp_end
from verifix.report.style import CLASSES, new_figure
from verifix.train.runs import TrainRun
from verifix.train.units import CLASSES as HALVES
from verifix.train.units import SLOPES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
# of each slope first where |l| > |u|: gray, purple, yellow, each dark and light
_COLOURS = ("#777777", "#CCCCCC", "#CC79A7", "#EBCADB", "#E69F00", "#F7DC9C")


_LETTERS = 32
"""Of a line of a name, above a column."""


@dataclass(frozen=True)
class SlopeShares:
    """The units of one run at every measurement with bounds.

    Attributes:
        name: of the run.
        position: in epochs, ``(k,)``.
        shares: ``(k, 6)`` of all unstable units the fractions whose free line has slope 0, between, 1, each where |l| >
            |u| and elsewhere; None where the method has no free lines, NaN where no unit is unstable.
        unstable: by layer ``(k,)``, the fraction of its units.
    """

    name: str
    ramp_end: float
    position: Array
    shares: Array | None
    unstable: dict[str, Array]


def slope_shares(name: str, run: TrainRun) -> SlopeShares | None:
    """Read them from a run's log, of the first of its methods that has free lines; None where no bounds were used."""
    lines = [line for line in run.landscape if line.get("units")]
    if not lines:
        return None
    methods = sorted({layer["method"] for line in lines for layer in line["units"]})
    with_slopes = {layer["method"] for line in lines for layer in line["units"] if layer["slopes"] is not None}
    method = min(with_slopes, default=methods[0])
    units = [[layer for layer in line["units"] if layer["method"] == method] for line in lines]
    unstable = {layer["node"]: np.array([row[i]["unstable"] for row in units]) for i, layer in enumerate(units[0])}
    shares = np.array([_shares(row) for row in units]) if with_slopes else None
    return SlopeShares(name, ramp_end(run), np.array([line["position"] for line in lines]), shares, unstable)


def slopes_figure(runs: Sequence[SlopeShares], title: str = "") -> Figure:
    """One column for each run: the slopes of its unstable units, and below how many are unstable."""
    from matplotlib.ticker import PercentFormatter

    figure = new_figure(max(3.2 * len(runs) + 2.2, 5.6), 5.2)
    places = figure.subplots(2, len(runs), squeeze=False, sharex="col", sharey="row", height_ratios=(1.6, 1))
    labels = [f"slope {slope}, {half}" for slope in SLOPES for half in HALVES]
    for run, upper, lower in zip(runs, *places, strict=True):
        position = averaged(run.position)
        if run.shares is None:
            upper.text(0.5, 0.5, "flat lines:\nno slope is free", ha="center", va="center", transform=upper.transAxes)
        else:
            columns = [averaged(column) for column in run.shares.T]
            upper.stackplot(position, *columns, colors=_COLOURS, labels=labels, linewidth=0)
            if not np.isfinite(run.shares).all(axis=1).any():
                upper.text(0.5, 0.5, "no unit is unstable", ha="center", va="center", transform=upper.transAxes)
        for number, (layer, fractions) in enumerate(run.unstable.items()):
            colour = CLASSES[number % len(CLASSES)]
            lower.plot(position, averaged(fractions), color=colour, linewidth=1.2, label=f"layer {layer}")
        for axes in (upper, lower):
            if run.ramp_end:
                axes.axvline(run.ramp_end, color="black", linestyle=":", linewidth=1)
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        upper.set_title(textwrap.fill(run.name, _LETTERS, break_on_hyphens=False), fontsize="medium")
        lower.grid(alpha=0.3)
        lower.set_xlabel("epoch")
    places[0, 0].set_ylabel("of unstable units")
    places[1, 0].set_ylabel("unstable")
    _legends(figure, places)
    if title:
        figure.suptitle(title, fontsize="medium")
    return figure


def _legends(figure: Figure, places: Any) -> None:
    """One for all columns, since their colours mean the same."""
    for number, row in enumerate(places):
        entries: dict[str, Any] = {}
        for axes in row:
            entries |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        if entries:
            handles, names = list(entries.values()), list(entries)
            where: Any = "outside right lower" if number else "outside right upper"
            figure.legend(handles, names, loc=where, fontsize="small", frameon=False)


def _shares(layers: Sequence[Mapping[str, Any]]) -> list[float]:
    """Over all layers, each with its number of unstable units; in the order of the colours."""
    weights = [layer["units"] * layer["unstable"] for layer in layers if layer["slopes"] is not None]
    slopes = [layer["slopes"] for layer in layers if layer["slopes"] is not None]
    total = sum(weights)
    if not total:
        return [np.nan] * len(_COLOURS)
    return [
        sum(weight * shares[half][slope] for weight, shares in zip(weights, slopes, strict=True)) / total
        for slope in range(len(SLOPES))
        for half in range(len(HALVES))
    ]
