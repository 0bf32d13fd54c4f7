"""The pictures of one digit against the rest: Anderson and Sojoudi (2022), figures 3 and 4, and certified accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from verifix.data import Dataset
from verifix.report.biased_mnist import OneDigitResult, OneDigitSettings, measure_one_digit
from verifix.report.style import BLUE, CLASSES, GRAY, GREEN, ORANGE, RED, Progress, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {
    "base": ("base network", GRAY, "-"),
    "normal": ("normal smoothing", ORANGE, "-"),
    "biased": ("locally biased", BLUE, "-"),
    "adaptive": ("locally biased, adaptive attack", RED, "--"),
    "neighbour": ("1-nearest neighbour", GREEN, ":"),
}


def draw_biased_mnist(
    folder: Path, train: Dataset, test: Dataset, settings: OneDigitSettings, progress: Progress
) -> tuple[OneDigitResult, list[Path]]:
    """Write ``smoothing.png`` (figure 3), ``attack_radius.png`` (figure 4) and ``certified.png`` into a folder.

    The numbers of all three lie beside the first, those of the others beside them too.

    Raises:
        InvalidValue: data without enough inputs of the digit.
    """
    result = measure_one_digit(train, test, settings, progress)
    pictures = {
        "smoothing": (_smoothing_figure(result), result),
        "attack_radius": (_radius_figure(result), result.against_radius),
        "certified": (_certified_figure(result), {"alphas": settings.certified_alphas, "radii": result.certified}),
    }
    for name, (figure, numbers) in pictures.items():
        save_figure(folder / f"{name}.png", figure, numbers)
    return result, [folder / f"{name}.png" for name in pictures]


def _smoothing_figure(result: OneDigitResult) -> Figure:
    """Accuracy against alpha, and against sigma."""
    settings = result.settings
    figure = new_figure(10, 4.4)
    left, right = figure.subplots(1, 2, sharey=True)
    for row, eps in enumerate((0.0, *settings.radii)):
        name = "clean" if row == 0 else f"PGD on the base, l2 eps {eps:g}"
        colour = CLASSES[row]
        left.plot(settings.alphas, result.biased[row], color=colour, label=name)
        right.plot(settings.sigmas, result.normal[row], color=colour)
        left.axhline(result.neighbour[row], color=colour, linestyle=":", linewidth=0.8)
        if row:
            left.plot(
                settings.adaptive_alphas, result.adaptive[row - 1], color=colour, linestyle="--", marker="o",
                markersize=4, label=f"adaptive attack, l2 eps {eps:g} ({settings.attacked} inputs)",
            )  # fmt: skip
    left.set_xscale("symlog", linthresh=0.1)
    left.set_xlabel("alpha of locally biased smoothing (dotted: 1-nearest neighbour)")
    left.set_ylabel("accuracy")
    right.set_xlabel("sigma of normal smoothing")
    figure.legend(loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    return figure


def _radius_figure(result: OneDigitResult) -> Figure:
    """Accuracy against the radius of the attack, in l2 and in l_inf."""
    settings = result.settings
    figure = new_figure(10, 4.4)
    axes = figure.subplots(1, 2, sharey=True)
    for place, (norm, curves) in zip(axes, result.against_radius.items(), strict=True):
        for name, (label, colour, line) in NAMES.items():
            label = f"{label} ({settings.attacked} inputs)" if name == "adaptive" else label
            place.plot(curves["radii"], curves[name], color=colour, linestyle=line, label=label)
        alpha = settings.alpha if norm == "l2" else settings.linf_alpha
        place.set_xlabel(f"{'l2' if norm == 'l2' else 'l_inf'} eps (sigma {settings.sigma:g}, alpha {alpha:g})")
    axes[0].set_ylabel("accuracy under attack")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    return figure


def _certified_figure(result: OneDigitResult) -> Figure:
    """Certified accuracy of the logit-bias form against the radius."""
    figure = new_figure(6.5, 4.4)
    axes = figure.subplots()
    most = max(float(result.certified.max()), 1e-3)
    radii = np.linspace(0, 1.05 * most, 300)
    for alpha, found, colour in zip(result.settings.certified_alphas, result.certified, CLASSES, strict=False):
        shares = (found[:, None] > radii).mean(0)
        axes.plot(radii, shares, color=colour, label=f"alpha {alpha:g}")
    axes.set_xlabel(f"l2 radius (logits biased by alpha times {result.constant:.3g}; CROWN)")
    axes.set_ylabel("certified accuracy")
    axes.set_ylim(0, 1)
    axes.legend(fontsize="small", frameon=False)
    return figure
