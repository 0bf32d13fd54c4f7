"""Pictures of training runs: their landscape, their slopes, and how tight bounds are on what they gave."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from verifix.data import Dataset, load
from verifix.errors import InvalidValue, UserError
from verifix.graph import capture
from verifix.report.landscape import Where, averages, landscape_curves, landscape_figure
from verifix.report.slopes import slope_shares, slopes_figure
from verifix.report.style import Progress, plain, save_figure
from verifix.report.violins import NetworkTightness, violins_figure
from verifix.train.runs import TrainRun
from verifix.train.tightness import METHODS, margin_bounds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = ("landscape", "slopes", "tightness")
INPUTS = 200


@dataclass(frozen=True)
class RunPictures:
    """What was drawn; what was not, and why; and the means of :func:`verifix.report.landscape.averages`."""

    written: list[Path]
    left_out: dict[str, str]
    means: dict[str, dict[str, float | None]]


def draw_landscape(
    folder: Path,
    runs: Sequence[TrainRun],
    *,
    pictures: Sequence[str] | None = None,
    methods: Sequence[str] = METHODS,
    data: str | None = None,
    limit: int | None = INPUTS,
    eps: float | None = None,
    memory: int | None = None,
    device: str = "cpu",
    progress: Progress = lambda what, done, total: None,
) -> RunPictures:
    """Write pictures of runs into a folder, each with its numbers beside it.

    ``landscape.png`` is at the scheduled eps (Lee et al., figure 1), ``landscape_target.png`` at the eps of the end,
    ``slopes.png`` is of the free slopes (figure 2, right), ``tightness.png`` of several bounds on the best weights of
    each run (figure 3), over the first ``limit`` inputs of its test set.

    Args:
        pictures: some of :data:`PICTURES`, all of which can then be drawn, or nothing is written. By default all, and
            of a run without best weights or data the tightness is left out; logs must be there in any case.
        methods: compared in the last one, as :func:`verifix.train.tightness.margin_bounds` takes them.
        data: in place of what each run was trained on; its test split, where none is named.
        eps: in place of the radius that each run was validated at.
        memory: byte budget of the bounds.

    Raises:
        UserError: an unknown picture, a run without a landscape log where one is to be drawn; what cannot be drawn of
            those that are asked for, see ``pictures``; nothing has been written then.
    """
    wanted = PICTURES if pictures is None else tuple(pictures)
    for name in wanted:
        if name not in PICTURES:
            raise InvalidValue("pictures", repr(name), f"choose some of {', '.join(PICTURES)}")
    if not wanted or not runs:
        raise InvalidValue("pictures", "none", f"choose some of {', '.join(PICTURES)}")
    names = labels(runs)
    for name, run in zip(names, runs, strict=True):
        if names.count(name) > 1:
            raise InvalidValue("run", run.folder, "is there twice: leave one of the two out")
    figures: dict[str, tuple[Figure, Any]] = {}
    left_out: dict[str, str] = {}
    means: dict[str, dict[str, float | None]] = {}
    if set(wanted) & {"landscape", "slopes"}:
        for run in runs:
            if not run.landscape:
                remedy = "has no landscape log: train it with --landscape-every N, or ask for --pictures tightness"
                raise InvalidValue("run", run.folder, remedy)
    if "landscape" in wanted:
        for where in get_args(Where):
            curves = [landscape_curves(name, run, where) for name, run in zip(names, runs, strict=True)]
            means = means or averages(curves)
            name = "landscape" if where == "scheduled" else "landscape_target"
            title = "at the scheduled eps" if where == "scheduled" else "at the target eps"
            figures[name] = (
                landscape_figure(curves, title),
                {"curves": curves, "means_while_eps_rises": averages(curves)},
            )
    if "slopes" in wanted:
        found = [slope_shares(name, run) for name, run in zip(names, runs, strict=True)]
        shares = [one for one in found if one is not None]
        if shares:
            figures["slopes"] = slopes_figure(shares), {"runs": shares}
        elif pictures is None:
            left_out["slopes"] = "no run was trained with bounds"
        else:
            raise InvalidValue("pictures", "slopes", "no run was trained with bounds: leave it out")
    if "tightness" in wanted:
        try:
            networks = []
            for name, run in zip(names, runs, strict=True):
                networks.append(_tightness(name, run, methods, data, limit, eps, memory, device, progress))
            numbers = {"networks": networks, "means": {network.name: network.means() for network in networks}}
            figures["tightness"] = violins_figure(networks), numbers
        except UserError as reason:
            if pictures is not None:
                raise
            left_out["tightness"] = str(reason)
    for name, (figure, content) in figures.items():
        save_figure(folder / f"{name}.png", figure, _known(plain(content)))
    return RunPictures([folder / f"{name}.png" for name in figures], left_out, means)


def labels(runs: Sequence[TrainRun]) -> list[str]:
    """What runs are called: by their methods, and by their folders too where that does not tell them apart."""
    methods = [run.settings.method for run in runs]
    return [
        f"{method} ({run.folder})" if methods.count(method) > 1 else method
        for method, run in zip(methods, runs, strict=True)
    ]


def _tightness(
    name: str,
    run: TrainRun,
    methods: Sequence[str],
    data: str | None,
    limit: int | None,
    eps: float | None,
    memory: int | None,
    device: str,
    progress: Progress,
) -> NetworkTightness:
    inputs = _data(run, data)
    model = run.network(inputs).to(device)
    images = inputs.images if limit is None else inputs.images[:limit]
    part = Dataset(
        inputs.name,
        inputs.split,
        images.to(device, next((p.dtype for p in model.parameters()), images.dtype)),
        inputs.labels[: len(images)].to(device),
        inputs.classes,
    )
    ball = run.settings.validation_ball if eps is None else run.settings.ball(eps)
    graph = capture(model, part.images[:2])
    found = margin_bounds(
        graph,
        part,
        ball,
        methods,
        memory=memory,
        progress=lambda done, total: progress(f"tightness, {name}", done, total),
    )
    return NetworkTightness(name, float(ball.eps), found)


def _data(run: TrainRun, data: str | None) -> Dataset:
    if data is not None:
        return load(data)
    spec = run.sources.get("data")
    if not spec:
        raise InvalidValue("run", run.folder, "does not know where its data lie: name them by --data")
    for split in (":train", ":test"):
        spec = str(spec).removesuffix(split)
    return load(spec)


def _known(value: Any) -> Any:
    """With None for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _known(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_known(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
