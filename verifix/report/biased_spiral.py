"""Locally biased smoothing on two spirals: figures 1 and 2 of Anderson and Sojoudi (2022), drawn anew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verifix.attack import attack_biased
from verifix.report.style import BLUE, CLASSES, GREEN, MARKERS, ORANGE, Progress, new_figure, save_figure
from verifix.sets import Ball
from verifix.sets.base import Norm
from verifix.smooth.biased import BiasedLinear, NearestNeighbour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NORMS: tuple[Norm, ...] = ("l2", "linf")


@dataclass(frozen=True)
class SpiralSettings:
    """Of the problem and of its pictures. The paper gives no data: these spirals are ours.

    Attributes:
        turns, size, noise: of each spiral: how far it turns, how far out it goes, and the standard deviation of the
            normal noise on its points.
        train, reserved, test: how many points of both together the base classifier is fitted to, are reserved for the
            oracle, and are looked at.
        penalty: on the squared weights of the support vector machine (squared hinge loss).
        alphas: of figure 2, evenly from 0 to the last of ``shown``.
        shown: the alphas of figure 1.
        attacked: so many test points are attacked, within and beyond their radii, at each alpha of figure 1.
        seed: of everything random.
    """

    turns: float = 0.8
    size: float = 10.0
    noise: float = 0.4
    train: int = 400
    reserved: int = 100
    test: int = 500
    penalty: float = 1e-3
    alphas: int = 41
    shown: tuple[float, ...] = (0.0, 2.0, 5.0, 10.0)
    attacked: int = 100
    seed: int = 0


@dataclass(frozen=True)
class SpiralCurves:
    """Figure 2: by alpha, ``(k,)`` each, in one norm; averages over the test points.

    Attributes:
        radius, true_radius: the certified radius of theorem 6; zero in the second where the prediction is wrong.
        tight_radius, tight_true_radius: the same with the tightenings T1 to T3.
        accuracy: of the smoothed classifier.
    """

    norm: Norm
    radius: NDArray[np.float64]
    true_radius: NDArray[np.float64]
    tight_radius: NDArray[np.float64]
    tight_true_radius: NDArray[np.float64]
    accuracy: NDArray[np.float64]


@dataclass(frozen=True)
class SpiralResult:
    """What was found.

    Attributes:
        alphas: of the curves.
        curves: for l2 and l_inf.
        neighbour_accuracy: of the 1-nearest-neighbour classifier, the limit for large alpha.
        broken: how many certificates the attack broke; any number but zero is a bug in verifix.
        beyond: the fraction of points that it broke within twice their radius.
    """

    alphas: NDArray[np.float64]
    curves: tuple[SpiralCurves, ...]
    neighbour_accuracy: float
    broken: int
    beyond: float


def spirals(points: int, settings: SpiralSettings, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points of two spirals around the origin, half of each, ``(n, 2)`` float64, and their labels -1 and 1.

    >>> x, y = spirals(6, SpiralSettings(noise=0.0), torch.Generator().manual_seed(0))
    >>> bool((x.norm(dim=1) <= 10).all()), y.tolist()
    (True, [-1, 1, -1, 1, -1, 1])
    """
    labels = 2 * (torch.arange(points) % 2) - 1
    along = torch.rand(points, generator=generator, dtype=torch.float64).sqrt()
    angle = 2 * math.pi * settings.turns * along + math.pi * (labels > 0)
    noise = settings.noise * torch.randn(points, 2, generator=generator, dtype=torch.float64)
    return settings.size * along[:, None] * torch.stack([angle.cos(), angle.sin()], 1) + noise, labels


def support_vector_machine(x: Tensor, y: Tensor, penalty: float) -> tuple[Tensor, float]:
    """The linear classifier ``sign(a . x + b)`` of least squared hinge loss, its squared weights penalised."""
    from scipy.optimize import minimize

    points, labels = x.numpy(), y.numpy()

    def loss(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        short = np.maximum(1 - labels * (points @ w[:-1] + w[-1]), 0)
        slope = -2 * short * labels / len(points)
        gradient = np.concatenate([slope @ points + 2 * penalty * w[:-1], [slope.sum()]])
        return float((short**2).mean() + penalty * (w[:-1] ** 2).sum()), gradient

    w = minimize(loss, np.zeros(points.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return torch.from_numpy(w[:-1].copy()), float(w[-1])


def draw_biased_spiral(folder: Path, settings: SpiralSettings, progress: Progress) -> tuple[SpiralResult, list[Path]]:
    """Write ``regions.png`` (figure 1) and ``radii.png`` (figure 2) into a folder, with their numbers beside them."""
    generator = torch.Generator().manual_seed(settings.seed)
    train, reserved, test = (
        spirals(n, settings, generator) for n in (settings.train, settings.reserved, settings.test)
    )
    a, b = support_vector_machine(*train, settings.penalty)
    oracle = NearestNeighbour(*reserved)
    alphas = np.linspace(0, settings.shown[-1], settings.alphas)
    curves = []
    for norm in NORMS:
        rows = []
        for number, alpha in enumerate(alphas.tolist()):
            rows.append(_averages(BiasedLinear(a, b, oracle, alpha=alpha, norm=norm), *test))
            progress(f"radii, {norm}", number + 1, len(alphas))
        curves.append(SpiralCurves(norm, *np.array(rows).T))
    shown = [BiasedLinear(a, b, oracle, alpha=alpha) for alpha in settings.shown]
    broken, beyond = _attacked(shown, test[0][: settings.attacked], settings, progress)
    accuracy = float((oracle(test[0]) == test[1]).double().mean())
    result = SpiralResult(alphas, tuple(curves), accuracy, broken, beyond)
    regions = {"a": a, "b": b, "reserved": reserved, "test": test, "alphas": settings.shown}
    save_figure(folder / "regions.png", _regions_figure(shown, test, settings), regions)
    save_figure(folder / "radii.png", _radii_figure(result), result)
    return result, [folder / "regions.png", folder / "radii.png"]


def _averages(classifier: BiasedLinear, x: Tensor, y: Tensor) -> list[float]:
    """A point of each of the curves."""
    printed, tight = classifier.certify(x, tight=False), classifier.certify(x)
    right = (printed.predictions == y).double()
    values = (printed.radii, printed.radii * right, tight.radii, tight.radii * right, right)
    return [float(value.mean()) for value in values]


def _attacked(
    classifiers: Sequence[BiasedLinear], x: Tensor, settings: SpiralSettings, progress: Progress
) -> tuple[int, float]:
    """How many points are found within the radii, and which fraction within twice the radii."""
    broken, beyond = 0, []
    for number, classifier in enumerate(classifiers):
        radii = classifier.certify(x).radii
        for scale in (1.0, 2.0):
            ball = Ball(classifier.norm, scale * radii)
            success = attack_biased(classifier, x, inputs=ball, steps=5, neighbours=3, seed=settings.seed).success
            if scale == 1.0:
                broken += int((success & (radii > 0)).sum())
            else:
                beyond.append(float(success.double().mean()))
        progress("attack", number + 1, len(classifiers))
    return broken, float(np.mean(beyond))


def _regions_figure(
    classifiers: Sequence[BiasedLinear], test: tuple[Tensor, Tensor], settings: SpiralSettings
) -> Figure:
    """What each of them says, the base classifier's boundary as a bold line, and the test points."""
    figure = new_figure(3.6 * len(classifiers), 4.0)
    axes = figure.subplots(1, len(classifiers), squeeze=False)[0]
    for place, classifier in zip(axes, classifiers, strict=True):
        _draw_regions(place, classifier, test, 1.15 * settings.size)
    axes[0].set_ylabel("second input")
    return figure


def _draw_regions(axes: Axes, classifier: BiasedLinear, test: tuple[Tensor, Tensor], reach: float) -> None:
    from matplotlib.colors import ListedColormap

    ticks = torch.linspace(-reach, reach, 301, dtype=torch.float64)
    up, across = torch.meshgrid(ticks, ticks, indexing="ij")
    points = torch.stack([across, up], 2).reshape(-1, 2)
    extent = (-reach, reach, -reach, reach)
    classes = classifier.predict(points).reshape(301, 301).numpy()
    axes.imshow(classes, cmap=ListedColormap(CLASSES[:2]), vmin=-1, vmax=1, alpha=0.3, origin="lower", extent=extent)
    base = (points @ classifier.a + classifier.b).reshape(301, 301).numpy()
    axes.contour(base, levels=[0.0], colors="black", linewidths=2.0, origin="lower", extent=extent)
    for place, label in enumerate((-1, 1)):
        x = test[0][test[1] == label].numpy()
        axes.plot(
            x[:, 0], x[:, 1], linestyle="", marker=MARKERS[place], color=CLASSES[place], markersize=2.5,
            label=f"class {label}",
        )  # fmt: skip
    axes.set_title(f"alpha = {classifier.alpha:g}", fontsize="medium")
    axes.set_aspect("equal")
    axes.set_xlabel("first input")


def _radii_figure(result: SpiralResult) -> Figure:
    """Average radii, and the accuracy on an axis of its own."""
    figure = new_figure(7.5, 4.4)
    axes = figure.subplots()
    for curve, colour in zip(result.curves, (BLUE, ORANGE), strict=True):
        name = {"l2": "l2", "linf": "l_inf"}[curve.norm]
        axes.plot(result.alphas, curve.radius, color=colour, label=f"{name}, theorem 6")
        axes.plot(result.alphas, curve.true_radius, color=colour, linestyle="--", label=f"{name}, where right")
        axes.plot(result.alphas, curve.tight_radius, color=colour, linewidth=0.8, marker=".", markevery=4,
                  label=f"{name}, with T1 to T3")  # fmt: skip
    axes.set_xlabel("alpha")
    axes.set_ylabel("average certified radius")
    other = axes.twinx()
    other.plot(result.alphas, result.curves[0].accuracy, color=GREEN, linestyle=":", label="clean accuracy")
    other.axhline(result.neighbour_accuracy, color=GREEN, linewidth=0.6, alpha=0.6)
    other.set_ylabel("clean accuracy")
    other.set_ylim(top=1.02)
    figure.legend(loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    return figure
