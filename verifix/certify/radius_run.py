"""The largest certified radius of every input of a data set, into a folder, in steps that a crash cannot undo."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from verifix.bounds.method import exact_methods
from verifix.bounds.tiles import check_memory
from verifix.certify.radius import TOLERANCE, radius, threat_at_zero
from verifix.certify.run import (
    DEFAULT_BATCH,
    Progress,
    complete,
    environment,
    graph_within,
    run_settings,
    silent,
    versions,
)
from verifix.certify.store import Decision, RunStore
from verifix.data import Dataset
from verifix.errors import InvalidValue
from verifix.graph import Graph
from verifix.models import probe
from verifix.sets import Wasserstein
from verifix.sets.base import Norm


@dataclass(frozen=True)
class RadiusRecord(Decision):
    """The radius of one input, against the network's own prediction; numbers are exactly those that were evaluated.

    ``eps`` is the largest radius with a certificate (``verdict`` says whether there is one), ``uncertified`` the
    smallest tried above it that has none: None where the largest radius to be tried has one.
    """

    label: int
    prediction: int
    verdict: str
    eps: float
    uncertified: float | None
    evaluations: int


def radius_run(
    model: nn.Module,
    data: Dataset,
    *,
    out: str | Path,
    norm: Norm | Wasserstein = "linf",
    box: tuple[float | Tensor, float | Tensor] | None = None,
    method: str = "cap",
    max_eps: float | None = None,
    tolerance: float = TOLERANCE,
    batch: int = DEFAULT_BATCH,
    memory: int | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    sources: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> tuple[dict[str, Any], list[RadiusRecord]]:
    """Find the radius of every input of ``data``; a run that was killed continues with ``resume=True``.

    Chunks, folder, errors and arguments are those of :func:`verifix.certify.certify_run` and :func:`verifix.radius`.

    Returns:
        The summary, and one record per input.
    """
    if batch < 1:
        raise InvalidValue("batch", batch, "must be a whole number of at least 1")
    methods = exact_methods(method)  # refuses names that it does not know
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    memory = check_memory(memory, device)
    ball = threat_at_zero(norm, box)
    ball.around(data.images)  # refuses inputs outside the box before anything is written
    resolved = dict(settings or {}) | run_settings(model, data, ball, method, None, batch)
    resolved |= {"eps": None, "max_eps": max_eps, "tolerance": tolerance}
    example = data.images[:2].to(device)
    probe(model, example, data.classes, resolved.get("model"))
    graph = graph_within(model, example, memory, methods)
    options: dict[str, Any] = {"norm": norm, "box": box, "method": method, "max_eps": max_eps, "memory": memory}
    options["tolerance"] = tolerance
    radius(graph, example[:0], **options)  # refuses what else is wrong with them

    def decide(part: slice) -> list[RadiusRecord]:
        return _records(graph, data, part, device, options)

    def show(records: list[RadiusRecord], total: int) -> None:
        (progress or silent)(Progress(len(records), total, sum(record.verdict == "verified" for record in records)))

    where = environment(device, memory)
    with RunStore(out, resolved, RadiusRecord, sources=sources, environment=where, resume=resume) as store:
        summary = complete(store, len(data), batch, decide, show, summarise_radii)
        return summary, store.records


def _records(
    graph: Graph, data: Dataset, part: slice, device: torch.device, options: Mapping[str, Any]
) -> list[RadiusRecord]:
    found = radius(graph, data.images[part].to(device), **options)
    columns = (
        data.labels[part].tolist(),
        found.predictions.tolist(),
        found.verdicts.tolist(),
        found.radii.tolist(),
        [above if math.isfinite(above) else None for above in found.uncertified.tolist()],
        found.evaluations.tolist(),
    )
    return [RadiusRecord(part.start + i, *values) for i, values in enumerate(zip(*columns, strict=True))]


def summarise_radii(records: list[RadiusRecord], seconds: float, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``summary.json``.

    ``eps`` holds radii such that no input, three quarters of the inputs, half of them, a quarter, and all but one at
    most have a smaller one: elements of the results, never rounded up. ``closed`` is the fraction of inputs whose
    uncertified radius is within the tolerance of the certified one.

    >>> records = [RadiusRecord(0, 7, 7, "verified", 0.5, 0.501, 6), RadiusRecord(1, 2, 3, "verified", 0.25, None, 3)]
    >>> settings = {"method": "cap", "norm": "linf", "tolerance": 0.01}
    >>> summary = summarise_radii(records, 2.0, settings)
    >>> summary["eps"]["least"], summary["eps"]["largest"], summary["evaluations"], summary["closed"]
    (0.25, 0.5, {'mean': 4.5, 'most': 6}, 0.5)
    """
    n = len(records)
    ordered = sorted(record.eps for record in records)
    places = {"least": 0.0, "lower_quartile": 0.25, "median": 0.5, "upper_quartile": 0.75, "largest": 1.0}
    factor = 1 + settings["tolerance"]
    ends = [(record.eps, record.uncertified) for record in records]
    closed = sum(above is not None and 0 < above <= eps * factor for eps, above in ends)
    return {
        "n": n,
        "clean_error": sum(record.prediction != record.label for record in records) / n,
        "verdicts": {
            verdict: Counter(record.verdict for record in records)[verdict] for verdict in ("verified", "unknown")
        },
        "eps": {name: ordered[math.floor(place * (n - 1))] for name, place in places.items()},
        "unlimited": sum(record.uncertified is None for record in records),
        "closed": closed / n,
        "evaluations": {
            "mean": sum(record.evaluations for record in records) / n,
            "most": max(record.evaluations for record in records),
        },
        "method": settings["method"],
        "norm": settings["norm"],
        "seconds": seconds,
        **versions(),
        "settings": dict(settings),
    }
