"""Fractions of units that are always active, always inactive, or undecided, over examples (thesis, figure 3.11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from verifix.bounds import UnitStates
from verifix.report.style import BLUE, GREEN, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def units_figure(states: Sequence[UnitStates], title: str = "") -> Figure:
    """A histogram of examples for each layer (rows) and state (columns)."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    columns = (
        ("active", "always active", BLUE),
        ("inactive", "always inactive", ORANGE),
        ("undecided", "undecided", GREEN),
    )
    figure = new_figure(8.0, 1.6 * len(states) + 1.1)
    places = figure.subplots(len(states), 3, squeeze=False, sharex=True, sharey="row")
    bins = np.linspace(0, 1, 41).tolist()
    for row, state in zip(places, states, strict=True):
        for axes, (name, _, colour) in zip(row, columns, strict=True):
            fractions = getattr(state, name).cpu().numpy()
            axes.hist(fractions, bins=bins, color=colour)
            axes.axvline(float(fractions.mean()), color="black", linewidth=1, linestyle="--")
            axes.set_xlim(0, 1)
            axes.xaxis.set_major_formatter(PercentFormatter(1.0))
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.tick_params(labelsize="small")
        row[0].set_ylabel(f"layer {state.node}\n({state.units} units)", fontsize="small")
    for axes, (_, label, _) in zip(places[0], columns, strict=True):
        axes.set_title(label, fontsize="medium")
    figure.supxlabel("fraction of the layer's units (dashed: mean over examples)", fontsize="small")
    figure.supylabel("examples", fontsize="small")
    if title:
        figure.suptitle(title, fontsize="medium")
    return figure
