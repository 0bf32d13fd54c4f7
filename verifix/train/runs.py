"""What a folder of ``verifix train`` says of its training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from verifix.data import Dataset
from verifix.errors import InvalidValue
from verifix.models import load_model
from verifix.train.checkpoint import LANDSCAPE
from verifix.train.settings import TrainSettings


@dataclass(frozen=True)
class TrainRun:
    """One run, finished or not.

    Attributes:
        folder: where it lies.
        settings: how it trains.
        about: all that was recorded beside these, such as ``model``, ``mean`` and ``std``.
        sources: the paths that were read.
        landscape: the lines of its landscape log, see :mod:`verifix.train.landscape_plan`; empty where there is none.
    """

    folder: Path
    settings: TrainSettings
    about: Mapping[str, Any]
    sources: Mapping[str, Any]
    landscape: tuple[Mapping[str, Any], ...]

    def network(self, data: Dataset) -> nn.Module:
        """The network with its best weights, for inputs such as the data's, of the type that it was trained in.

        Raises:
            InvalidValue: there are no best weights yet, or the run does not know the name of its network.
        """
        weights = self.folder / "best.safetensors"
        if not weights.exists():
            raise InvalidValue("run", self.folder, "has no best weights yet: eps is still on its way")
        if not self.about.get("model"):
            raise InvalidValue("run", self.folder, "does not know its network's name: verifix train records it")
        mean, std, dtype = self.about.get("mean"), self.about.get("std"), getattr(torch, self.about["dtype"])
        return load_model(self.about["model"], weights, mean, std, input_shape=data.input_shape, dtype=dtype)


def read_run(folder: str | Path) -> TrainRun:
    """Read a run folder; a last line that is still being written is left out.

    Raises:
        InvalidValue: it is none of training, or its files are damaged.
    """
    folder = Path(folder)
    path = folder / "settings.json"
    if not path.is_file():
        remedy = "is no training run, it has no settings.json: name a folder that verifix train wrote"
        raise InvalidValue("run", folder, remedy)
    try:
        content = json.loads(path.read_text())
        known = {field.name for field in fields(TrainSettings)}
        recorded = dict(content["settings"])
        settings = {name: value for name, value in recorded.items() if name in known}
        if not {"method", "epochs", "lr", "eps_ramp"} <= set(settings):
            raise InvalidValue("run", folder, "holds a run of another kind: name a folder that verifix train wrote")
        return TrainRun(
            folder,
            TrainSettings.from_json(settings),
            {name: value for name, value in recorded.items() if name not in known},
            dict(content.get("sources") or {}),
            tuple(_lines(folder / LANDSCAPE)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InvalidValue):
            raise
        raise InvalidValue("run", path, "is damaged: it holds no settings of training") from None


def _lines(path: Path) -> list[Mapping[str, Any]]:
    if not path.exists():
        return []
    *lines, _ = path.read_text().split("\n")  # behind the last line end nothing is whole
    found = []
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
            value["scheduled"]["loss"], value["target"]["loss"], value["position"]
        except (ValueError, KeyError, TypeError):
            raise InvalidValue("run", f"{path}, line {number}", "is damaged") from None
        found.append(value)
    return found
