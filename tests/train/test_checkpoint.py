from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.train.examples import digits, network, same_history, same_weights, settings, stop_after
from verifix.certify.run import RunInterrupted
from verifix.errors import InvalidValue
from verifix.models import fingerprint
from verifix.train import Training, TrainSettings, train
from verifix.train.checkpoint import TrainFolder
from verifix.weights import read_weights

HOW = settings(epochs=3, optimiser="sgd", lr=0.1, lr_schedule="cosine", clip=1.0)
MIXED = settings(
    epochs=3, method="tight-smooth", beta=(1, 0.5), kappa=(1, 0.5), l1=1e-4, eps_warmup=0.5, eps_ramp=1.5, eps_test=0.02
)
ADAM = settings(epochs=2, lr=1e-2, patience=1, weight_decay=1e-3)


def interrupted(out: Path, how: TrainSettings, steps: int, **changes: Any) -> None:
    with pytest.raises(RunInterrupted, match="epochs are done; run the same with --resume"):
        train(network(), digits(), how, out=out, progress=stop_after(steps), **changes)


def lines(out: Path) -> list[dict[str, Any]]:
    """The log, without what it cost."""
    read = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "cost"} for line in read]


class TestResume:
    @pytest.mark.parametrize("how", [HOW, ADAM, MIXED], ids=["sgd", "adam", "mixed"])
    @pytest.mark.parametrize("seconds", [0, 1e9], ids=["every step", "every epoch"])
    def test_same_bits_wherever_it_stopped(self, how: TrainSettings, seconds: float, tmp_path: Path) -> None:
        whole = network()
        result = train(whole, digits(), how, out=tmp_path / "whole")
        for stop in (1, 3, 5, 6, 9):  # of 5 steps in an epoch
            out = tmp_path / str(stop)
            interrupted(out, how, stop, checkpoint_seconds=seconds)
            torch.rand(stop)  # what else was drawn does not matter
            again = network(seed=9)  # nor do the weights that it begins with
            resumed = train(again, digits(), how, out=out, resume=True)
            assert same_weights(again, whole)
            assert same_weights(resumed.last, result.last)
            assert same_history(resumed.history, result.history)
            assert lines(out) == lines(tmp_path / "whole")
            for name in ("best.safetensors", "last.safetensors"):
                assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    def test_stopped_again_and_again(self, tmp_path: Path) -> None:
        whole = network()
        train(whole, digits(), HOW)
        interrupted(tmp_path, HOW, 4, checkpoint_seconds=0)
        for _ in range(5):
            interrupted(tmp_path, HOW, 2, checkpoint_seconds=0, resume=True)
        again = network()
        train(again, digits(), HOW, out=tmp_path, resume=True)
        assert same_weights(again, whole)

    def test_a_finished_run_is_what_it_was(self, tmp_path: Path) -> None:
        first = train(network(), digits(), HOW, out=tmp_path)
        before = contents(tmp_path)
        model = network(seed=5)
        seen: list[int] = []
        second = train(model, digits(), HOW, out=tmp_path, resume=True, on_epoch=lambda h: seen.append(len(h)))
        assert same_weights(second.last, first.last)
        assert same_history(second.history, first.history)
        assert seen == [3]
        assert contents(tmp_path) == before

    def test_files_that_a_crash_kept_from_being_written(self, tmp_path: Path) -> None:
        """Killed after the checkpoint of an epoch, before the files that are derived from it."""
        train(network(), digits(), HOW, out=tmp_path)
        before = contents(tmp_path)
        for name in ("best.safetensors", "best.json", "last.safetensors", "last.json"):
            (tmp_path / name).unlink()
        log = tmp_path / "log.jsonl"
        log.write_text("".join(log.read_text().splitlines(keepends=True)[:1]) + '{"epoch": 2, "st')
        train(network(), digits(), HOW, out=tmp_path, resume=True)
        assert contents(tmp_path) == before

    def test_a_folder_without_a_run_is_started(self, tmp_path: Path) -> None:
        train(network(), digits(), HOW, out=tmp_path / "a" / "b", resume=True)
        assert len(lines(tmp_path / "a" / "b")) == 3


class TestFiles:
    def test_weights_say_what_they_are(self, tmp_path: Path) -> None:
        model = network()
        wrapped = nn.Sequential(nn.Identity(), model)
        about, sources = {"model": "networks:net"}, {"data": "digits"}
        result = train(wrapped, digits(), HOW, out=tmp_path, saved=model, about=about, sources=sources)
        for name, epoch in (("best", result.best), ("last", result.history[-1])):
            state = read_weights(tmp_path / f"{name}.safetensors")
            assert sorted(state) == sorted(model.state_dict())  # without the name of the part within the whole
            said = json.loads((tmp_path / f"{name}.json").read_text())
            assert said["weights"] == f"{name}.safetensors"
            assert said["parameters_sha256"] == fingerprint(state)
            assert said["epoch"] == epoch.to_json()
            assert said["settings"]["model"] == "networks:net"
            assert {key: said["settings"][key] for key in HOW.to_json()} == HOW.to_json()
        assert same_weights(model, read_weights(tmp_path / "best.safetensors"))
        recorded = json.loads((tmp_path / "settings.json").read_text())
        assert recorded["sources"] == sources
        assert recorded["environment"]["threads"] == torch.get_num_threads()

    def test_weights_that_are_shared(self, tmp_path: Path) -> None:
        first = nn.Linear(64, 64)
        model = nn.Sequential(nn.Flatten(), first, nn.ReLU(), first, nn.ReLU(), nn.Linear(64, 10))
        train(model, digits(), HOW, out=tmp_path)
        assert same_weights(model, read_weights(tmp_path / "best.safetensors"))


class TestRefused:
    """Every refusal leaves all files as they were."""

    def refuse(self, out: Path, how: TrainSettings = HOW, **changes: Any) -> str:
        before = contents(out)
        with pytest.raises(InvalidValue) as caught:
            train(network(), digits(), how, out=out, **changes)
        assert contents(out) == before
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_a_run_without_resume(self, tmp_path: Path) -> None:
        train(network(), digits(), HOW, out=tmp_path)
        assert "holds a run already: add --resume" in self.refuse(tmp_path)

    def test_results_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "results.jsonl").write_text("")
        (tmp_path / "settings.json").write_text("their own")
        assert "holds results of certify, attack, radius or detect" in self.refuse(tmp_path)
        assert "holds results of certify, attack, radius or detect" in self.refuse(tmp_path, resume=True)

    def test_other_settings(self, tmp_path: Path) -> None:
        interrupted(tmp_path, HOW, 1)
        other = TrainSettings.from_json({**HOW.to_json(), "lr": 0.2, "batch": 30})
        message = self.refuse(tmp_path, other, resume=True)
        assert "cannot be resumed with other settings (batch was 20, now 30; lr was 0.1, now 0.2)" in message
        assert "model was absent, now net" in self.refuse(tmp_path, resume=True, about={"model": "net"})

    def test_other_data(self, tmp_path: Path) -> None:
        interrupted(tmp_path, HOW, 1)
        with pytest.raises(InvalidValue, match="data_sha256 was "):
            train(network(), digits(91), HOW, out=tmp_path, resume=True)

    @pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
    def test_a_damaged_checkpoint(self, damage: bytes | None, tmp_path: Path) -> None:
        interrupted(tmp_path, HOW, 1)
        path = tmp_path / "checkpoint.pt"
        path.write_bytes(path.read_bytes()[:-200] if damage is None else damage)
        assert "cannot be read (" in self.refuse(tmp_path, resume=True)

    def test_a_checkpoint_of_another_kind(self, tmp_path: Path) -> None:
        torch.save({"state_dict": {}}, tmp_path / "checkpoint.pt")
        assert "not a checkpoint of this version" in self.refuse(tmp_path, resume=True)

    def test_a_run_that_another_process_works_on(self, tmp_path: Path) -> None:
        interrupted(tmp_path, HOW, 1)
        known = json.loads((tmp_path / "settings.json").read_text())["settings"]
        other = TrainFolder(tmp_path, known, sources={}, environment={}, resume=True)
        assert "another process is working on this run" in self.refuse(tmp_path, resume=True)
        other.close()
        train(network(), digits(), HOW, out=tmp_path, resume=True)

    @pytest.mark.parametrize("seconds", [-1.0, float("nan")])
    def test_a_time_that_cannot_be(self, seconds: float, tmp_path: Path) -> None:
        assert "checkpoint_seconds = " in self.refuse(tmp_path, checkpoint_seconds=seconds)

    def test_a_file_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(InvalidValue, match="is a file, or lies under one"):
            train(network(), digits(), HOW, out=tmp_path / "file")

    def test_a_disk_that_is_full_from_the_beginning(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail_after(0))
            with pytest.raises(InvalidValue, match="cannot be written: No space left on device"):
                train(network(), digits(), HOW, out=tmp_path / "run")
        assert list(tmp_path.iterdir()) == []


class TestFullDisk:
    @pytest.mark.parametrize("writes", [3, 5, 8, 11, 13])
    def test_the_earlier_checkpoint_stays_and_goes_on(
        self, writes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = network()
        result = train(whole, digits(), HOW)
        out = tmp_path / "run"
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail_after(writes * 2))  # of the file and of its folder
            with pytest.raises(
                InvalidValue, match=r"cannot be written: No space left on device; .* go on with --resume"
            ):
                train(network(), digits(), HOW, out=out)
        assert not [path for path in out.iterdir() if path.name.startswith(".")]
        again = network()
        resumed: Training = train(again, digits(), HOW, out=out, resume=True)
        assert same_weights(again, whole)
        assert same_history(resumed.history, result.history)

    def test_a_disk_that_really_is(self, tmp_path: Path) -> None:
        train(network(), digits(), HOW, out=tmp_path)
        before = contents(tmp_path)
        known = json.loads((tmp_path / "settings.json").read_text())["settings"]
        folder = TrainFolder(tmp_path, known, sources={}, environment={}, resume=True)
        (tmp_path / ".checkpoint.pt.tmp").symlink_to("/dev/full")
        with pytest.raises(InvalidValue, match=r"checkpoint\.pt: cannot be written: No space left on device"):
            folder.save({"model": network().state_dict()})
        folder.close()
        assert contents(tmp_path) == before


def fail_after(calls: int) -> Callable[[int], None]:
    real, count = os.fsync, 0

    def fsync(file: int) -> None:
        nonlocal count
        count += 1
        if count > calls:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file)

    return fsync


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
