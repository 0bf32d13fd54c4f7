"""``verifix train --stages``."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.killing import kill
from verifix.data import load

NETWORKS = """
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
"""


def train(*args: object, out: str = "run") -> list[object]:
    """A command line that is right, and what a test adds to it; of options named twice the last one counts."""
    return ["train", "networks:net", "--data", "digits", "--eps", "0.12", "--box", "0", "1", "--limit", "160",
            "--validation", "30", "--epochs", "4", "--batch", "20", "--lr", "0.02", "--stages", "3",
            "--out", out, *args]  # fmt: skip


def outcome(folder: Path) -> dict[str, Any]:
    """What must not depend on how training came to its end."""
    history = json.loads((folder / "cascade.json").read_text())
    weights = {path.parent.name: load_file(path) for path in sorted(folder.glob("stage-*/best.safetensors"))}
    left = {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("stage-*/left.json"))}
    return {"cascade": history, "left": left, "weights": weights}


def equal(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(equal(ours[key], theirs[key]) for key in ours)
    return torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else bool(ours == theirs)


class TestRun:
    def test_leaves_a_cascade_that_certify_takes(self, verifix: Callable[..., Any], place: Path) -> None:
        done = verifix(*train("--mean", "0.3", "--std", "0.4"))
        assert done.status == 0
        assert "verifix certify run/cascade.json" in " ".join(done.out.split())
        content = json.loads((place / "run" / "cascade.json").read_text())
        assert [stage["weights"] for stage in content["stages"]] == [f"stage-{i}/best.safetensors" for i in range(3)]
        assert all((stage["mean"], stage["std"]) == ([0.3], [0.4]) for stage in content["stages"])
        history = content["settings"]["history"]
        said = [f"stage {i}: trained on {e['examples']} examples, {e['left']} of" for i, e in enumerate(history)]
        told = [line for line in done.err.splitlines() if line.startswith("stage ")]  # among signs of life
        assert all(line.startswith(start) for line, start in zip(told, said, strict=True))
        assert [entry["examples"] for entry in history] == [130, *(entry["left"] for entry in history[:-1])]
        for number in range(3):
            files = {path.name for path in (place / "run" / f"stage-{number}").iterdir()}
            assert {"best.safetensors", "curves.png", "left.json", "log.jsonl", "settings.json"} <= files

        # what validation said of the cascade is what certify says of the same inputs
        data, left = load("digits:train").first(160), json.loads((place / "run" / "stage-2" / "left.json").read_text())
        from verifix.train import TrainSettings, hold_out

        _, held_out = hold_out(data, TrainSettings(validation=30))
        assert held_out is not None
        import numpy as np

        np.savez(place / "held_out.npz", x=held_out.images.numpy(), y=held_out.labels.numpy())
        common = ["--data", "npz:held_out.npz", "--eps", "0.12", "--box", "0", "1", "--out", "certified"]
        assert verifix("certify", "run/cascade.json", *common).status == 0
        summary = json.loads((place / "certified" / "summary.json").read_text())
        for name in ("stagewise_error", "certified_error"):
            assert summary[name] == left["errors"][name] == history[-1]["validation"][name]

    def test_the_first_stage_is_a_single_network(self, verifix: Callable[..., Any], place: Path) -> None:
        assert verifix(*train()).status == 0
        assert verifix(*train("--stages", "1", out="one")).status == 0
        first, alone = (load_file(place / name / "best.safetensors") for name in ("run/stage-0", "one"))
        assert equal(first, alone)

    def test_weights_to_begin_with(self, verifix: Callable[..., Any], place: Path) -> None:
        """They are where the first stage begins; the others begin as they do anyway."""
        assert verifix(*train()).status == 0
        how = ("--weights", "run/stage-0/best.safetensors", "--lr", "1e-9", "--epochs", "1", "--stages", "2")
        assert verifix(*train(*how, out="again")).status == 0
        begun, first = (load_file(place / name / "stage-0" / "best.safetensors") for name in ("again", "run"))
        second = load_file(place / "again" / "stage-1" / "best.safetensors")
        assert all(torch.allclose(begun[key], first[key], atol=1e-6) for key in first)
        assert not any(torch.allclose(second[key], first[key], atol=1e-2) for key in first)

    @pytest.mark.parametrize(
        ("extra", "message"),
        [
            (["--stages", "0"], "'0' is no whole number of at least 1"),
            (["--method", "none", "--eps", "0"], "a cascade is made of what bounds certify"),
            (["--box", "0", "0.5"], "inputs outside the box"),
            (["--lr", "0"], "lr"),
        ],
    )
    def test_bad_input(self, refuses: Callable[..., None], extra: list[str], message: str) -> None:
        refuses(train(*extra), message)


class TestStopped:
    def test_sigkill_at_any_time_changes_nothing(
        self, start: Callable[..., subprocess.Popen[str]], verifix: Callable[..., Any], place: Path
    ) -> None:
        assert verifix(*train("--threads", "1", out="whole")).status == 0
        draw = random.Random(0)
        for wanted in ("stage-0/left.json", "stage-2/checkpoint.pt"):
            process = start(*train("--threads", "1", "--resume", "--checkpoint-seconds", "0"), cwd=place)
            while process.poll() is None and not (place / "run" / wanted).exists():
                time.sleep(0.002)
            time.sleep(draw.random() / 20)
            kill(process)
        assert verifix(*train("--threads", "1", "--resume")).status == 0
        assert equal(outcome(place / "whole"), outcome(place / "run"))

    @pytest.mark.slow
    def test_two_processes(self, verifix: Callable[..., Any], place: Path) -> None:
        """As many examples are left, and the weights differ by rounding only."""
        assert verifix(*train("--dtype", "float64", out="one")).status == 0
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command += ["-m", "verifix", *map(str, train("--dtype", "float64", out="two"))]
        path = [entry for entry in (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")) if entry]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("certified error") == 1  # one process alone speaks
        one, two = outcome(place / "one"), outcome(place / "two")
        for stage, left in one["left"].items():
            assert [two["left"][stage][key] for key in ("train", "validation")] == [left["train"], left["validation"]]
            for name, value in one["weights"][stage].items():
                torch.testing.assert_close(two["weights"][stage][name], value, rtol=1e-6, atol=1e-8)
