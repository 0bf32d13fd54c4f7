"""Radii of a whole data set in a folder."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import verifix as vx
from tests.certify.examples import digits
from verifix.certify import radius_run
from verifix.certify.radius_run import RadiusRecord, summarise_radii
from verifix.certify.run import Progress, RunInterrupted
from verifix.data import Dataset
from verifix.errors import InvalidValue


@pytest.fixture(scope="module")
def data() -> Dataset:
    _, x, y = digits()
    return Dataset("npz", "test", x, y, classes=4)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return digits()[0].eval()


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_equal_to_the_library_chunk_by_chunk(tmp_path: Path, data: Dataset, model: nn.Module) -> None:
    summary, records = radius_run(model, data, out=tmp_path, norm="l2", box=(0, 1), method="crown", batch=10)
    for start in (0, 10, 20):
        part = slice(start, start + 10)
        found = vx.radius(model, data.images[part], norm="l2", box=(0, 1), method="crown")
        assert [record.eps for record in records[part]] == found.radii.tolist()
        assert [record.uncertified for record in records[part]] == found.uncertified.tolist()
        assert [record.evaluations for record in records[part]] == found.evaluations.tolist()
        assert [record.prediction for record in records[part]] == found.predictions.tolist()
    assert [record.label for record in records] == data.labels.tolist()
    assert [RadiusRecord(**line) for line in lines(tmp_path)] == records
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_summary(tmp_path: Path, data: Dataset, model: nn.Module) -> None:
    summary, records = radius_run(model, data, out=tmp_path)
    radii = sorted(record.eps for record in records)
    assert summary["eps"] == {
        "least": radii[0],
        "lower_quartile": radii[5],
        "median": radii[11],
        "upper_quartile": radii[17],
        "largest": radii[23],
    }
    assert summary["verdicts"] == {"verified": 24, "unknown": 0}
    assert summary["clean_error"] == 5 / 24
    assert summary["closed"] == 1.0
    assert summary["unlimited"] == 0
    assert summary["evaluations"]["mean"] == sum(record.evaluations for record in records) / 24 <= 8
    assert summary["settings"]["tolerance"] == 1e-5
    assert summary["settings"]["eps"] is None


def test_radii_without_limit_are_json(tmp_path: Path, data: Dataset) -> None:
    constant = nn.Sequential(nn.Flatten(), nn.Linear(49, 4)).eval()
    with torch.no_grad():
        constant[1].weight.zero_()
        constant[1].bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    summary, _ = radius_run(constant, data, out=tmp_path, max_eps=0.5)
    assert summary["unlimited"] == 24
    assert summary["closed"] == 0
    assert all((line["eps"], line["uncertified"]) == (0.5, None) for line in lines(tmp_path))


def test_interrupted_and_resumed(tmp_path: Path, data: Dataset, model: nn.Module) -> None:
    radius_run(model, data, out=tmp_path / "whole", batch=5)
    seen: list[Progress] = []

    def stop(progress: Progress) -> None:
        seen.append(progress)
        if progress.done == 10:
            raise KeyboardInterrupt

    with pytest.raises(RunInterrupted, match="10 of 24 inputs are decided"):
        radius_run(model, data, out=tmp_path / "killed", batch=5, progress=stop)
    with (tmp_path / "killed" / "results.jsonl").open("a") as stream:
        stream.write('{"index": 10, "la')  # as a process that was killed leaves it
    assert not (tmp_path / "killed" / "summary.json").exists()
    summary, records = radius_run(model, data, out=tmp_path / "killed", batch=5, resume=True)
    assert seen == [Progress(done, 24, done) for done in (0, 5, 10)]
    assert summary["n"] == len(records) == 24
    first, second = ((tmp_path / name / "results.jsonl").read_bytes() for name in ("whole", "killed"))
    assert first == second


@pytest.mark.parametrize("change", [{"tolerance": 1e-4}, {"max_eps": 0.5}, {"norm": "l1"}, {"box": (0, 1)}])
def test_other_settings_are_not_resumed(
    tmp_path: Path, data: Dataset, model: nn.Module, change: dict[str, Any]
) -> None:
    radius_run(model, data.first(3), out=tmp_path, method="ibp")
    with pytest.raises(InvalidValue, match=f"{next(iter(change))} was .*, now "):
        radius_run(model, data.first(3), out=tmp_path, method="ibp", resume=True, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"batch": 0},
        {"method": "magic"},
        {"memory": 1},
        {"tolerance": math.nan},
        {"max_eps": -1.0},
        {"norm": "l7"},
        {"box": (0, 0.5)},
    ],
)
def test_nothing_is_written_for_bad_input(
    tmp_path: Path, data: Dataset, model: nn.Module, change: dict[str, Any]
) -> None:
    with pytest.raises(InvalidValue):
        radius_run(model, data, out=tmp_path / "run", **change)
    assert not (tmp_path / "run").exists()


def test_inputs_without_any_certificate() -> None:
    records = [RadiusRecord(0, 1, 1, "unknown", 0.0, 0.0, 1), RadiusRecord(1, 1, 1, "verified", 0.25, 0.25, 4)]
    summary = summarise_radii(records, 1.0, {"method": "cap", "norm": "linf", "tolerance": 1e-5})
    assert summary["verdicts"] == {"verified": 1, "unknown": 1}
    assert summary["closed"] == 0.5
