"""Every cell in miniature, so that what would stop one is found before the first begins."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from verifix.attack.run import attack_run
from verifix.certify.run import certify_run
from verifix.compare.cell import Work, start
from verifix.compare.settings import Cell
from verifix.errors import InvalidValue
from verifix.graph import capture
from verifix.models import probe
from verifix.operations import Nonlinear
from verifix.train import Progress, TrainingDiverged, train


class _Enough(Exception):
    """A step was made."""


def rehearse(work: Work, cells: Sequence[Cell]) -> None:
    """Make one step of training in each cell (of one seed), on two examples, and certify and attack two inputs.

    It is the same code that does it later, in a folder that is removed.

    Raises:
        UserError: what is wrong with the network, the data, the methods or a budget.
    """
    chosen = {(cell.method, cell.eps): cell for cell in cells}
    if not chosen:
        return
    first = next(iter(chosen.values()))
    model = start(work, first)
    _require_linear_end(model, work)
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for cell in chosen.values():
            first.settings.ball(cell.eps).around(work.test.images)  # refuses inputs outside the box, all of them
            _rehearse_training(work, cell, Path(folder) / cell.name)
        _rehearse_tests(work, first, model, chosen.values(), Path(folder))


def _require_linear_end(model: nn.Module, work: Work) -> None:
    """Margins between classes are merged with the last layer of a network, which has to be linear for that."""
    device = next((parameter.device for parameter in model.parameters()), None)
    example, name = work.data.images[:2].to(device), work.about.get("model")
    probe(model, example, work.data.classes, name)
    graph = capture(model, example)
    last = graph.nodes[graph.output]
    if isinstance(last.operation, Nonlinear):
        what = f"{type(last.operation).__name__} {last.source}".rstrip()
        remedy = f"its last operation, {what}, is not linear: give logits"
        raise InvalidValue("MODEL", name or type(model).__name__, remedy)


def _rehearse_training(work: Work, cell: Cell, folder: Path) -> None:
    def stop(progress: Progress) -> None:
        raise _Enough

    with suppress(_Enough, TrainingDiverged):
        settings = replace(cell.settings, batch=2)
        train(start(work, cell), work.data, settings, out=folder, progress=stop, **work.landscape)


def _rehearse_tests(work: Work, first: Cell, model: nn.Module, cells: Iterable[Cell], folder: Path) -> None:
    two, ball = work.test.first(2), first.settings.ball(first.eps)
    methods = dict.fromkeys([work.comparison.certify_method, *(cell.own_method or "ibp" for cell in cells)])
    for number, method in enumerate(methods):
        certify_run(model, two, ball, out=folder / str(number), method=method, memory=work.memory)
    attack = replace(work.comparison.attack(), steps=1)
    attack_run(model, two, ball, {"pgd": attack}, out=folder / "attack")
