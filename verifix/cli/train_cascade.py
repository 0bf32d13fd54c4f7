"""``verifix train --stages N``: a cascade, stage by stage."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from verifix.cascade_file import Stage
from verifix.cli import options
from verifix.cli.show_training import training_meter
from verifix.data import Dataset
from verifix.models import inner
from verifix.report import training_curves
from verifix.train import CascadeTraining, Epoch, StageTraining, TrainSettings, train_cascade
from verifix.train.distributed import Group

Draw = Callable[[Sequence[Epoch]], None]


def run_cascade(
    args: argparse.Namespace, settings: TrainSettings, data: Dataset, device: str, curves: Callable[[Path], Draw]
) -> None:
    """Train the cascade that the arguments describe; ``curves`` makes what draws the picture of a stage."""
    folder = Path(args.out)
    pictures: dict[int, Draw] = {}

    def make(number: int) -> nn.Module:
        if number:  # --weights is what the first stage begins with; the others begin afresh
            torch.manual_seed(settings.stream("weights", number))
        weights = None if number else args.weights
        return options.load_network(argparse.Namespace(**{**vars(args), "weights": weights}), data, device)

    def draw(number: int, history: Sequence[Epoch]) -> None:
        pictures.setdefault(number, curves(folder / f"stage-{number}" / "curves.png"))(history)

    def report(stage: StageTraining) -> None:
        training_curves(folder / f"stage-{stage.number}" / "curves.png", stage.training.history)
        what = f"stage {stage.number}: trained on {stage.examples} examples, {stage.left} of them left uncertified"
        print(what, file=sys.stderr, flush=True)

    with training_meter() as progress:
        result = train_cascade(
            make,
            data,
            settings,
            stages=args.stages,
            out=folder,
            resume=args.resume,
            checkpoint_seconds=args.checkpoint_seconds,
            saved=inner,
            stage=Stage(args.model, "", args.mean, args.std),
            about=options.settings_of_model(args),
            sources=options.sources_of_model(args, data),
            progress=progress,
            on_epoch=draw,
            on_stage=report,
        )
    if Group.current(device).first:
        _show(result, args)


def _show(result: CascadeTraining, args: argparse.Namespace) -> None:
    table = Table(title=Text(f"{args.model} on {args.data}: a cascade"), title_justify="left")
    for name in ("stage", "trained on", "left", "best epoch", "stagewise error", "certified error"):
        table.add_column(name, justify="right")
    for stage in result.stages:
        errors = stage.errors
        table.add_row(
            str(stage.number),
            str(stage.examples),
            str(stage.left),
            str(stage.training.best.epoch),
            "" if errors is None else f"{errors.stagewise_error:.2%}",
            "" if errors is None else f"{errors.certified_error:.2%}",
        )
    errors = result.stages[-1].errors
    held_out = "" if errors is None else f"errors of the cascade up to each stage, on {errors.examples} held out. "
    table.caption = Text(f"{held_out}Certify it with: verifix certify {Path(args.out) / 'cascade.json'} --data ...")
    table.caption_justify = "left"
    Console().print(table)
