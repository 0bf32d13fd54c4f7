"""Certificates of a data set in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.certify.examples import linear
from verifix.certify.run import Progress, RunInterrupted
from verifix.data import Dataset
from verifix.errors import InvalidValue
from verifix.smooth.certify import Question, SmoothedClassifier
from verifix.smooth.log import read_log, write_log
from verifix.smooth.noise import Flow, Gaussian, KeepOrReplace, Noise, Splitting
from verifix.smooth.run import SmoothRecord, predict_run, read_run, smooth_run

MODEL = linear([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], [0.0, 0.0, -0.4])
QUESTION = Question(n0=30, n=400, alpha=0.01)
FILES = ["results.jsonl", "sessions.jsonl", "settings.json", "summary.json", "timings.jsonl"]


@pytest.fixture(scope="module")
def data() -> Dataset:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(-10, 11, (24, 2), generator=generator) / 10
    labels = MODEL(images).argmax(1)
    labels[::6] = (labels[::6] + 1) % 3
    return Dataset("npz", "test", images, labels, classes=3)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


class TestResults:
    def test_those_of_the_library(self, tmp_path: Path, data: Dataset) -> None:
        summary = smooth_run(MODEL, data, Gaussian(0.25), QUESTION, out=tmp_path, seed=4)
        assert sorted(path.name for path in tmp_path.iterdir()) == FILES
        found = SmoothedClassifier(MODEL, Gaussian(0.25), classes=3, seed=4).certify(
            data.images, n0=30, n=400, alpha=0.01
        )
        written = [SmoothRecord(**line) for line in lines(tmp_path)]
        assert [record.prediction for record in written] == found.predictions.tolist()
        assert [record.radius for record in written] == [
            None if np.isnan(radius) else radius for radius in found.radius
        ]
        assert [record.counts for record in written] == found.counts.tolist()
        assert [record.selection for record in written] == found.selection.tolist()
        assert [record.top for record in written] == found.probabilities.top.tolist()
        assert [record.label for record in written] == data.labels.tolist()
        assert [record.input for record in written] == list(range(24))
        assert json.loads((tmp_path / "summary.json").read_text()) == summary

    def test_summary(self, tmp_path: Path, data: Dataset) -> None:
        summary = smooth_run(MODEL, data, Gaussian(0.25), QUESTION, out=tmp_path)
        written = lines(tmp_path)
        right = [line["radius"] for line in written if line["prediction"] == line["label"]]
        abstained = sum(line["radius"] is None for line in written)
        outcomes = {"correct": len(right), "wrong": 24 - len(right) - abstained, "abstained": abstained}
        assert summary["outcomes"] == outcomes
        assert min(outcomes.values()) > 0
        assert summary["clean_accuracy"] == len(right) / 24
        assert summary["average_certified_radius"] == pytest.approx(sum(right) / 24, rel=1e-14)
        for entry in summary["certified_accuracy"]:
            assert entry["accuracy"] == sum(radius >= entry["radius"] for radius in right) / 24
            assert entry["corrected"] < max(entry["accuracy"], 1e-9)
        assert summary["samples"] == 24 * 430
        assert summary["invalid"] == 0
        assert (summary["confidence"], summary["confidence_of_all"]) == (0.99, pytest.approx(1 - 24 * 0.01))
        assert (summary["norm"], summary["closed"], summary["float_sound"]) == ("l2", False, False)

    def test_every_kth_input_keeps_its_samples(self, tmp_path: Path, data: Dataset) -> None:
        smooth_run(MODEL, data, Gaussian(0.25), QUESTION, out=tmp_path / "all")
        smooth_run(MODEL, data, Gaussian(0.25), QUESTION, out=tmp_path / "some", skip=5)
        every, some = lines(tmp_path / "all"), lines(tmp_path / "some")
        assert [line["input"] for line in some] == [0, 5, 10, 15, 20]
        assert [{**line, "index": None} for line in some] == [{**line, "index": None} for line in every[::5]]

    def test_every_outcome(self, tmp_path: Path, data: Dataset) -> None:
        data = Dataset("npz", "test", data.images.abs(), data.labels, classes=3)
        summary = smooth_run(MODEL, data, Splitting(1.0, lattice=10), None, out=tmp_path)
        assert (summary["rule"], summary["alpha"], summary["confidence"]) == ("exact", 0, 1)
        assert (summary["confidence_of_all"], summary["closed"], summary["float_sound"]) == (1, True, True)
        assert summary["samples"] == 24 * 20
        assert all(entry["corrected"] == entry["accuracy"] for entry in summary["certified_accuracy"])

    def test_stopping_early(self, tmp_path: Path, data: Dataset) -> None:
        question = Question(n0=30, n=2000, alpha=0.01, radius=0.2)
        summary = smooth_run(MODEL, data, Gaussian(0.25), question, out=tmp_path)
        written = lines(tmp_path)
        assert summary["answers"] == {
            answer: sum(line["answer"] == answer for line in written) for answer in ("yes", "no", "open")
        }
        assert all(line["radius"] >= 0.2 for line in written if line["answer"] == "yes")
        assert summary["samples"] < 24 * 1000
        assert [entry["radius"] for entry in summary["certified_accuracy"]] == [0.0, 0.2]

    def test_nan_on_some_samples_is_counted(self, tmp_path: Path, data: Dataset) -> None:
        class NanAbove(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return torch.where(x[:, :1] > 0.8, torch.nan, MODEL(x))

        summary = smooth_run(NanAbove(), data, Gaussian(0.25), QUESTION, out=tmp_path)
        assert 0 < summary["invalid"] == sum(line["counts"][-1] + line["selection"][-1] for line in lines(tmp_path))
        assert summary["n"] == 24

    def test_predictions(self, tmp_path: Path, data: Dataset) -> None:
        summary = predict_run(MODEL, data, Gaussian(0.25), n=200, alpha=0.01, out=tmp_path)
        found = SmoothedClassifier(MODEL, Gaussian(0.25), classes=3).predict(data.images, n=200, alpha=0.01)
        assert [line["prediction"] for line in lines(tmp_path)] == found.predictions.tolist()
        assert sum(summary["outcomes"].values()) == 24
        assert summary["samples"] == 24 * 200


class TestResuming:
    def test_interrupted_and_resumed(self, tmp_path: Path, data: Dataset) -> None:
        whole = smooth_run(MODEL, data, Gaussian(0.25), QUESTION, out=tmp_path / "whole")
        seen: list[Progress] = []

        def stop(progress: Progress) -> None:
            seen.append(progress)
            if progress.done == 10:
                raise KeyboardInterrupt

        with pytest.raises(RunInterrupted, match="10 of 24 inputs are decided"):
            smooth_run(MODEL, data, Gaussian(0.25), QUESTION, out=tmp_path / "killed", progress=stop)
        with (tmp_path / "killed" / "results.jsonl").open("a") as stream:
            stream.write('{"index": 10, "la')  # as a process that was killed leaves it
        rest = smooth_run(MODEL, data, Gaussian(0.25), QUESTION, out=tmp_path / "killed", resume=True, batch=1000)
        assert [progress.done for progress in seen] == list(range(11))
        one, other = ((tmp_path / name / "results.jsonl").read_bytes() for name in ("whole", "killed"))
        assert one == other
        assert {**rest, "seconds": 0} == {**whole, "seconds": 0}

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"noise": Gaussian(0.5)}, "noise"),
            ({"question": Question(n0=30, n=401, alpha=0.01)}, "n was 400, now 401"),
            ({"question": Question(n0=30, n=400, alpha=0.01, rule="certify")}, "rule was t-certify, now certify"),
            ({"question": Question(n0=30, n=400, alpha=0.01, radius=1.0)}, "radius was None, now 1.0"),
            ({"seed": 1}, "seed was 0, now 1"),
            ({"skip": 2}, "skip was 1, now 2"),
            ({"model": linear([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], [0.0, 0.0, -0.5])}, "parameters_sha256 was"),
        ],
    )
    def test_other_settings(self, tmp_path: Path, data: Dataset, change: dict[str, Any], named: str) -> None:
        arguments = {"model": MODEL, "noise": Gaussian(0.25), "question": QUESTION, "data": data.first(2)}
        smooth_run(**arguments, out=tmp_path)
        with pytest.raises(InvalidValue, match=named):
            smooth_run(**{**arguments, **change}, out=tmp_path, resume=True)

    def test_predictions_are_another_run(self, tmp_path: Path, data: Dataset) -> None:
        predict_run(MODEL, data.first(2), Gaussian(0.25), n=200, alpha=0.01, out=tmp_path)
        with pytest.raises(InvalidValue, match="question was predict, now certify"):
            smooth_run(MODEL, data.first(2), Gaussian(0.25), QUESTION, out=tmp_path, resume=True)


class TestReading:
    def test_rows_of_a_log(self, tmp_path: Path, data: Dataset) -> None:
        smooth_run(MODEL, data, Gaussian(0.25), QUESTION, out=tmp_path / "run", skip=2)
        rows, norm = read_run(tmp_path / "run")
        assert norm == "l2"
        written = lines(tmp_path / "run")
        assert [row.index for row in rows] == list(range(0, 24, 2))
        assert [row.radius for row in rows] == [line["radius"] or 0.0 for line in written]
        assert all(row.seconds > 0 for row in rows)
        write_log(tmp_path / "log.tsv", rows)
        again = read_log(tmp_path / "log.tsv")
        assert [(row.index, row.prediction, row.correct) for row in again] == [
            (row.index, row.prediction, row.correct) for row in rows
        ]
        assert all(0.99 * row.radius <= printed.radius <= row.radius for printed, row in zip(again, rows, strict=True))

    def test_ground_metrics_are_told_apart(self, tmp_path: Path) -> None:
        images, model = torch.tensor([[[[1.0, 0.0]]], [[[0.0, 1.0]]]]), nn.Flatten()
        data = Dataset("npz", "test", images, torch.tensor([0, 1]), classes=2)
        for ground, norm in (("l1", "wasserstein"), ("l2", "wasserstein (l2 ground)")):
            smooth_run(model, data, Flow(0.1, ground=ground), QUESTION, out=tmp_path / ground)
            assert read_run(tmp_path / ground)[1] == norm

    def test_half_a_run(self, tmp_path: Path, data: Dataset) -> None:
        smooth_run(MODEL, data, Gaussian(0.25), QUESTION, out=tmp_path)
        content = (tmp_path / "results.jsonl").read_bytes().splitlines(keepends=True)
        (tmp_path / "results.jsonl").write_bytes(b"".join(content[:7]) + content[7][:20])
        assert len(read_run(tmp_path)[0]) == 7

    def test_no_run_of_this_kind(self, tmp_path: Path, data: Dataset) -> None:
        with pytest.raises(InvalidValue, match="holds no run"):
            read_run(tmp_path)
        predict_run(MODEL, data.first(2), Gaussian(0.25), n=200, alpha=0.01, out=tmp_path)
        with pytest.raises(InvalidValue, match="is no run of verifix smooth certify"):
            read_run(tmp_path)


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"model": nn.Linear(2, 2)}, "gives 2 outputs, but the data has 3 classes"),
            ({"model": nn.Linear(3, 3)}, "fails on inputs of shape"),
            ({"model": nn.Flatten(0)}, r"must give \(batch, classes\)"),
            ({"noise": Gaussian(0.25, lattice=255)}, "lattice"),
            ({"noise": KeepOrReplace(0.8, levels=10)}, "x = -"),
            ({"skip": 0}, "skip = 0"),
            ({"batch": 0}, "batch = 0"),
            ({"seed": -1}, "seed = -1"),
            ({"question": None}, "too many outcomes"),
        ],
    )
    def test_nothing_is_written(self, tmp_path: Path, data: Dataset, change: dict[str, Any], message: str) -> None:
        arguments = {"model": MODEL, "noise": Gaussian(0.25), "question": QUESTION, "data": data, **change}
        with pytest.raises(InvalidValue, match=message):
            smooth_run(**arguments, out=tmp_path / "run")
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("noise", [Gaussian(0.25), Splitting(1.0)])
    def test_only_nan(self, tmp_path: Path, data: Dataset, noise: Noise) -> None:
        model = linear([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
        with torch.no_grad():
            model.bias.fill_(torch.nan)
        with pytest.raises(InvalidValue, match="gives NaN on all 30 noisy inputs"):
            smooth_run(model, data, noise, QUESTION, out=tmp_path / "run")
        with pytest.raises(InvalidValue, match="gives NaN on all"):
            predict_run(model, data, noise, n=100, alpha=0.01, out=tmp_path / "run")
        assert not (tmp_path / "run").exists()
