from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from verifix.certify import certify
from verifix.certify.run import Progress, RunInterrupted, certify_run, summarise
from verifix.certify.store import Record
from verifix.data import Dataset, load
from verifix.errors import InvalidValue, UserError
from verifix.sets import Ball, InputSet

BALL = Ball("linf", 0.1)


@dataclass
class Decided:
    verdicts: np.ndarray
    margin: Tensor
    predictions: Tensor


class Fake:
    """A certifier that notes which inputs it is asked for, and may be stopped at the n-th call."""

    def __init__(self, stop_at: int | None = None, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.calls: list[int] = []
        self.stop_at, self.error = stop_at, error

    def __call__(self, x: Tensor, y: Tensor, inputs: InputSet) -> Decided:
        assert torch.equal(inputs.center, x)
        if len(self.calls) == self.stop_at:
            raise self.error
        self.calls.append(len(x))
        margin = x.flatten(1).sum(1) - 20.0
        verdicts = np.where((margin > 0).numpy(), "verified", "unknown")
        return Decided(verdicts, torch.where(margin < -4, torch.nan, margin), (y + (margin < -2)) % 10)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load("digits").first(23)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)).eval()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestResults:
    def test_lines(self, tmp_path: Path, data: Dataset, model: nn.Module) -> None:
        fake = Fake()
        certify_run(model, data, BALL, out=tmp_path, batch=10, certifier=fake)
        assert fake.calls == [10, 10, 3]
        lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
        sums = (data.images.flatten(1).sum(1) - 20.0).tolist()
        for index, line in enumerate(lines):
            label = int(data.labels[index])
            assert list(line) == ["index", "label", "prediction", "verdict", "margin"]
            assert (line["index"], line["label"]) == (index, label)
            assert line["prediction"] == (label + (sums[index] < -2)) % 10
            assert line["verdict"] == ("verified" if sums[index] > 0 else "unknown")
            assert line["margin"] == (None if sums[index] < -4 else sums[index])
        assert {line["margin"] is None for line in lines} == {True, False}

    def test_summary(self, tmp_path: Path, data: Dataset, model: nn.Module) -> None:
        summary = certify_run(model, data, BALL, out=tmp_path, batch=10, method="crown", certifier=Fake())
        assert json.loads((tmp_path / "summary.json").read_text()) == summary
        lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
        verified = sum(line["verdict"] == "verified" for line in lines)
        assert 0 < verified < 23
        assert summary["n"] == 23
        assert summary["certified_error"] == (23 - verified) / 23
        assert summary["clean_error"] == sum(line["prediction"] != line["label"] for line in lines) / 23
        assert (summary["method"], summary["norm"], summary["eps"]) == ("crown", "linf", 0.1)
        assert sum(summary["verdicts"].values()) == 23
        timings = [json.loads(line) for line in (tmp_path / "timings.jsonl").read_text().splitlines()]
        assert summary["seconds"] == sum(line["seconds"] for line in timings)
        assert summary["torch"] == torch.__version__

    def test_errors_to_the_last_digit(self) -> None:
        records = [Record(i, 0, int(i < 180), "unknown" if i < 582 else "verified", None) for i in range(10_000)]
        summary = summarise(records, 1.0, {"method": "cap", "norm": "linf", "eps": 0.1})
        assert (summary["clean_error"], summary["certified_error"]) == (0.0180, 0.0582)

    def test_settings(self, tmp_path: Path, data: Dataset, model: nn.Module) -> None:
        ball = Ball("l2", torch.tensor([0.5] * 23), (0.0, 1.0))
        certify_run(
            model, data, ball, out=tmp_path, settings={"model": "users:net"}, sources={"data": "here"}, certifier=Fake()
        )
        stored = json.loads((tmp_path / "settings.json").read_text())
        assert stored["sources"] == {"data": "here"}
        settings = stored["settings"]
        assert settings["model"] == "users:net"
        assert (settings["norm"], settings["eps"], settings["box"]) == ("l2", [0.5] * 23, [0.0, 1.0])
        assert (settings["data"], settings["limit"], settings["batch"], settings["dtype"]) == (
            "digits:test",
            23,
            50,
            "float32",
        )

    def test_progress(self, tmp_path: Path, data: Dataset, model: nn.Module) -> None:
        seen: list[Progress] = []
        summary = certify_run(model, data, BALL, out=tmp_path, batch=10, progress=seen.append, certifier=Fake())
        assert [progress.done for progress in seen] == [0, 10, 20, 23]
        assert {progress.total for progress in seen} == {23}
        assert seen[-1].verified == summary["verdicts"]["verified"]

    def test_no_gradients_are_recorded(self, tmp_path: Path, data: Dataset, model: nn.Module) -> None:
        class Watch(Fake):
            def __call__(self, x: Tensor, y: Tensor, inputs: InputSet) -> Decided:
                assert not torch.is_grad_enabled()
                return super().__call__(x, y, inputs)

        certify_run(model, data, BALL, out=tmp_path, certifier=Watch())


class TestResume:
    @settings(max_examples=20)
    @given(cuts=st.lists(st.integers(0, 2500), max_size=4), batch=st.integers(1, 25))
    def test_same_bytes(
        self, tmp_path_factory: pytest.TempPathFactory, data: Dataset, model: nn.Module, cuts: list[int], batch: int
    ) -> None:
        whole, resumed = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("resumed")
        certify_run(model, data, BALL, out=whole, batch=batch, certifier=Fake())
        for cut in cuts:
            certify_run(model, data, BALL, out=resumed, batch=batch, resume=True, certifier=Fake())
            content = (resumed / "results.jsonl").read_bytes()
            (resumed / "results.jsonl").write_bytes(content[:cut])
        summary = certify_run(model, data, BALL, out=resumed, batch=batch, resume=True, certifier=Fake())
        assert (resumed / "results.jsonl").read_bytes() == (whole / "results.jsonl").read_bytes()
        one = json.loads((whole / "summary.json").read_text())
        assert {**summary, "seconds": 0.0} == {**one, "seconds": 0.0}

    def test_a_part_of_a_chunk_is_computed_as_that_chunk(self, tmp_path: Path, data: Dataset, model: nn.Module) -> None:
        certify_run(model, data, BALL, out=tmp_path, batch=10, certifier=Fake())
        lines = (tmp_path / "results.jsonl").read_bytes().splitlines(keepends=True)
        (tmp_path / "results.jsonl").write_bytes(b"".join(lines[:14]) + b'{"index": 14, "la')
        fake = Fake()
        certify_run(model, data, BALL, out=tmp_path, batch=10, resume=True, certifier=fake)
        assert fake.calls == [10, 3]
        assert (tmp_path / "results.jsonl").read_bytes() == b"".join(lines)

    def test_finished(self, tmp_path: Path, data: Dataset, model: nn.Module) -> None:
        certify_run(model, data, BALL, out=tmp_path, certifier=Fake())
        before = files(tmp_path)
        fake = Fake()
        certify_run(model, data, BALL, out=tmp_path, resume=True, certifier=fake)
        assert fake.calls == []
        assert {**files(tmp_path), "sessions.jsonl": before["sessions.jsonl"]} == before

    def test_interrupted(self, tmp_path: Path, data: Dataset, model: nn.Module) -> None:
        with pytest.raises(RunInterrupted, match="20 of 23 inputs are decided; run the same command with --resume"):
            certify_run(model, data, BALL, out=tmp_path, batch=10, certifier=Fake(stop_at=2))
        assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 20
        assert not (tmp_path / "summary.json").exists()
        fake = Fake()
        certify_run(model, data, BALL, out=tmp_path, batch=10, resume=True, certifier=fake)
        assert fake.calls == [3]

    def test_failing_certifier_loses_nothing(self, tmp_path: Path, data: Dataset, model: nn.Module) -> None:
        with pytest.raises(RuntimeError):
            certify_run(model, data, BALL, out=tmp_path, batch=10, certifier=Fake(stop_at=1, error=RuntimeError))
        assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 10

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda run: run(ball=Ball("linf", 0.2)), "eps was 0.1, now 0.2"),
            (lambda run: run(ball=Ball("l2", 0.1)), "norm was linf, now l2"),
            (lambda run: run(ball=Ball("linf", 0.1, (0, 1))), "box was None, now [0.0, 1.0]"),
            (lambda run: run(method="ibp"), "method was cap, now ibp"),
            (lambda run: run(batch=9), "batch was 10, now 9"),
            (lambda run: run(settings={"seed": 1}), "seed was absent, now 1"),
            (lambda run: run(limit=22), "limit was 23, now 22"),
            (lambda run: run(other_model=True), "parameters_sha256 was "),
            (lambda run: run(other_data=True), "data_sha256 was "),
        ],
    )
    def test_other_settings(
        self,
        tmp_path: Path,
        data: Dataset,
        model: nn.Module,
        change: Callable[[Callable[..., None]], None],
        message: str,
    ) -> None:
        def run(limit: int = 23, other_model: bool = False, other_data: bool = False, **changes: Any) -> None:
            used = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) if other_model else model
            inputs = load("digits:train").first(23) if other_data else data.first(limit)
            options: dict[str, Any] = {"ball": BALL, "batch": 10, "resume": True} | changes
            certify_run(used, inputs, options.pop("ball"), out=tmp_path, certifier=Fake(), **options)

        run()
        before = files(tmp_path)
        with pytest.raises(InvalidValue, match=r"cannot be resumed with other settings") as caught:
            change(run)
        assert message in str(caught.value)
        assert files(tmp_path) == before


class TestRefused:
    """Bad input is refused before anything is written."""

    def run(self, out: Path, data: Dataset, model: nn.Module, ball: Ball = BALL, **options: Any) -> str:
        with pytest.raises(UserError) as caught:
            certify_run(model, data, ball, out=out / "run", **options)
        assert list(out.iterdir()) == []
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_inputs_outside_the_box(self, tmp_path: Path, data: Dataset, model: nn.Module) -> None:
        message = self.run(tmp_path, data, model, Ball("linf", 0.1, (0, 0.99)))
        outside = int((data.images.flatten(1).amax(1) > 0.99).sum())
        assert f"{outside} of 23 inputs" in message
        assert "normalised" in message

    def test_batch(self, tmp_path: Path, data: Dataset, model: nn.Module) -> None:
        assert "batch = 0" in self.run(tmp_path, data, model, batch=0)

    def test_no_classifier(self, tmp_path: Path, data: Dataset) -> None:
        assert "must give (batch, classes)" in self.run(tmp_path, data, nn.Identity())

    def test_unsupported_operation(self, tmp_path: Path, data: Dataset) -> None:
        class Cube(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return torch.erfinv(x.flatten(1)[:, :10] / 2)

        assert "erfinv" in self.run(tmp_path, data, Cube())

    def test_unknown_method(self, tmp_path: Path, data: Dataset, model: nn.Module) -> None:
        assert "magic" in self.run(tmp_path, data, model, method="magic")


class TestEngine:
    """The same with the real engine."""

    @pytest.mark.parametrize("method", ["ibp", "cap", "crown"])
    def test_equal_to_certify(self, tmp_path: Path, data: Dataset, model: nn.Module, method: str) -> None:
        ball = Ball("linf", 0.01, (0.0, 1.0))
        certify_run(model, data, ball, out=tmp_path, method=method, batch=23)
        lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
        with torch.no_grad():
            result = certify(model, data.images, data.labels, ball, method=method)
        assert [line["verdict"] for line in lines] == list(result.verdicts)
        assert [line["margin"] for line in lines] == result.margin.tolist()
        assert [line["prediction"] for line in lines] == model(data.images).argmax(1).tolist()

    def test_radius_of_each_input(self, tmp_path: Path, data: Dataset, model: nn.Module) -> None:
        each = torch.linspace(0, 0.05, 23)
        certify_run(model, data, Ball("linf", each), out=tmp_path / "each", batch=10)
        margins = [
            json.loads(line)["margin"] for line in (tmp_path / "each" / "results.jsonl").read_text().splitlines()
        ]
        for index in (0, 12, 22):
            certify_run(model, data, Ball("linf", float(each[index])), out=tmp_path / str(index), batch=10)
            lines = (tmp_path / str(index) / "results.jsonl").read_text().splitlines()
            assert margins[index] == pytest.approx(json.loads(lines[index])["margin"], rel=1e-5, abs=1e-6)
