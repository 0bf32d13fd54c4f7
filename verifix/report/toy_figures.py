"""The pictures of the thesis' section 3.2, drawn anew: boundaries, polytopes, and how tight the bounds are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from verifix.attack import PGD
from verifix.bounds import NAMED, outer_polygons
from verifix.certify import certify
from verifix.data import Dataset
from verifix.graph import Graph, capture
from verifix.report.boundary import BoundaryPanel, boundary_figure, class_grid
from verifix.report.polytope import PolytopePanel, polytope_figure, reached_outputs
from verifix.report.style import Progress, save_figure
from verifix.report.tightness import Tightness, join, tightness, tightness_figure
from verifix.report.toy import ToySettings, fit, random_network, toy_points, untrained_network
from verifix.report.toy_cascade import ToyCascade, toy_cascade
from verifix.sets import Ball, InputSet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STANDARD, ROBUST, RANDOM = "standard training", "robust training", "random weights"
CASCADE = "cascade"


@dataclass(frozen=True)
class ToyResult:
    """What is proved of one network on the points of the problem, and what PGD finds: which points, ``(n,)``.

    ``broken`` counts the certificates that the attack broke: any number but zero is a bug in verifix.
    """

    name: str
    certified: Tensor
    attacked: Tensor
    broken: int


def draw_toy(folder: Path, settings: ToySettings, progress: Progress) -> tuple[list[ToyResult], ToyCascade, list[Path]]:
    """Train two networks and write every picture of the toy problem into a folder, with its numbers beside it.

    ``boundary.png`` (figure 3.3), ``polytopes_random.png`` (3.4), ``polytopes_trained.png`` (3.5), ``tightness.png``
    (3.8, on this problem) and ``cascade.png`` (3.17). Returns what was found, and the pictures.
    """
    written: list[Path] = []

    def save(name: str, figure: Figure, numbers: object) -> None:
        save_figure(folder / f"{name}.png", figure, numbers)
        written.append(folder / f"{name}.png")

    data = toy_points(settings.points, settings.separation, settings.seed)
    models = {name: untrained_network(settings.widths, settings.seed) for name in (STANDARD, ROBUST)}
    for name in (STANDARD, ROBUST):
        fit(models[name], data, settings, name == ROBUST, partial(progress, name))
    data = data.to(torch.float64)  # all that follows is computed in it
    graphs = {name: capture(model.double(), data.images) for name, model in models.items()}

    results = [_result(name, graphs[name], data, settings) for name in (STANDARD, ROBUST)]
    boundaries = [_boundary(result, graphs[result.name], data, settings) for result in results]
    save("boundary", boundary_figure(boundaries), {"panels": boundaries, "results": results})

    rows = [
        [_random_polytope(number, eps, settings) for number in range(settings.random_networks)]
        for eps in settings.radii
    ]
    save("polytopes_random", polytope_figure(rows), {"rows": rows})
    rows = [
        [
            _polytope(f"{name}, point {i}", graphs[name], _ball(data.images[i : i + 1], settings.eps), settings)
            for i in range(min(3, len(data)))
        ]
        for name in (STANDARD, ROBUST)
    ]
    save("polytopes_trained", polytope_figure(rows, turned=True), {"rows": rows})

    graphs = {ROBUST: graphs[ROBUST], RANDOM: _random(settings.widths, settings.seed), STANDARD: graphs[STANDARD]}
    panels = []
    for name, graph in graphs.items():
        panels.append(_tightness(name, graph, data.images, settings))
        progress("linear programs", len(panels), len(graphs))
    save("tightness", tightness_figure(panels), {"panels": panels})

    cascade, boundaries = toy_cascade(settings, partial(progress, CASCADE))
    save("cascade", boundary_figure(boundaries), {"panels": boundaries, "result": cascade})
    return results, cascade, written


def _ball(points: Tensor, eps: float) -> InputSet:
    return Ball("linf", eps).around(points)


def _result(name: str, graph: Graph, data: Dataset, settings: ToySettings) -> ToyResult:
    sets = _ball(data.images, settings.eps)
    certified = certify(graph, data.images, data.labels, sets, settings.method).verified
    pgd = PGD(steps=40, restarts=20, relative_step_size=0.1, final_step=0.1, start_from="both", loss="margin")
    attacked = pgd(graph, data.images, data.labels, sets, seed=settings.seed).success
    return ToyResult(name, torch.as_tensor(certified), attacked, int((torch.as_tensor(certified) & attacked).sum()))


def _boundary(result: ToyResult, graph: Graph, data: Dataset, settings: ToySettings) -> BoundaryPanel:
    n = len(data)
    proved, found = n - int(result.certified.sum()), int(result.attacked.sum())
    title = f"{result.name}\nrobust error at most {proved}/{n} (certificate),\nat least {found}/{n} (attack)"
    side = (-1.25 * settings.eps, 1 + 1.25 * settings.eps)
    return BoundaryPanel(title, side, class_grid(graph, side), data.images, data.labels, settings.eps, result.certified)


def _polytope(title: str, graph: Graph, inputs: InputSet, settings: ToySettings) -> PolytopePanel:
    (polygon,) = outer_polygons(graph, inputs, settings.method)
    return PolytopePanel(title, *reached_outputs(graph, inputs), polygon)


def _random_polytope(number: int, eps: float, settings: ToySettings) -> PolytopePanel:
    graph = _random(settings.random_widths, settings.seed + number)
    middle = torch.full((1, 2), 0.5, dtype=torch.float64)
    return _polytope(f"network {number}, eps {eps:g}", graph, _ball(middle, eps), settings)


def _random(widths: Sequence[int], seed: int) -> Graph:
    return capture(random_network(widths, seed).double(), torch.zeros(1, 2, dtype=torch.float64))


def _tightness(name: str, graph: Graph, points: Tensor, settings: ToySettings) -> Tightness:
    """At all radii; of the class that the network itself says."""
    classes = graph(points).argmax(1)
    parts = [
        tightness(name, graph, points, classes, Ball("linf", part * settings.eps), NAMED[settings.method])
        for part in settings.parts
    ]
    return join(name, parts)
