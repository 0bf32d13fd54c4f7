from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.killing import kill, wait_until
from tests.cli.written import lines
from verifix.data import load
from verifix.models import load_model

NETWORKS = """
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

def normed():
    layers = (nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 10))
    return nn.Sequential(nn.Flatten(), *layers)

def deep():
    hidden = [layer for _ in range(2) for layer in (nn.Linear(80, 80), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 80), nn.ReLU(), *hidden, nn.Linear(80, 10))
"""


def train(*args: object, model: str = "networks:net", out: str = "run") -> list[object]:
    """A command line that is right, and what a test adds to it; of options named twice the last one counts."""
    usual = ["--data", "digits", "--eps", "0.05", "--box", "0", "1", "--method", "crown-ibp", "--limit", "90"]
    return ["train", model, *usual, "--epochs", "3", "--batch", "20", "--out", out, *args]


def log(folder: Path, name: str = "log.jsonl") -> list[dict[str, Any]]:
    """The log, without what it cost."""
    return [{key: value for key, value in line.items() if key != "cost"} for line in lines(folder, name)]


def epochs_done(folder: Path) -> int:
    return len(log(folder)) if (folder / "log.jsonl").exists() else 0


class TestRun:
    def test_leaves_weights_that_certify_takes(self, verifix: Callable[..., Any], place: Path) -> None:
        done = verifix(*train("--mean", "0.3", "--std", "0.4"))
        assert (done.status, done.err) == (0, "")
        assert "linf ball of radius 0.05 within [0, 1]" in done.out
        assert "validation (9)" in done.out
        files = {path.name for path in (place / "run").iterdir()}
        weights = {f"{name}.{suffix}" for name in ("best", "last") for suffix in ("safetensors", "json")}
        assert files == {"settings.json", "checkpoint.pt", "log.jsonl", "curves.png", *weights}
        for line in (place / "run" / "log.jsonl").read_text().splitlines():
            cost = json.loads(line)["cost"]
            assert list(cost) == ["seconds", "validation_seconds", "examples_per_second", "peak_memory"]
            assert all(number > 0 for number in cost.values())
        said = json.loads((place / "run" / "best.json").read_text())["settings"]
        assert (said["model"], said["mean"], said["std"]) == ("networks:net", [0.3], [0.4])
        assert (said["norm"], said["eps"], said["box"], said["data"]) == ("linf", 0.05, [0.0, 1.0], "digits:train")

        common = ["networks:net", "--weights", "run/best.safetensors", "--mean", "0.3", "--std", "0.4"]
        certified = verifix(
            "certify", *common, "--data", "digits", "--eps", "0.05", "--limit", "20", "--out", "certified"
        )
        assert (certified.status, certified.err) == (0, "")

    def test_every_setting_arrives(self, verifix: Callable[..., Any], place: Path) -> None:
        given = {
            "norm": "l2", "eps": "0.2", "method": "cap+ibp", "epochs": 4, "batch": 30, "eps-schedule": "smoothed",
            "eps-start": "1/100", "eps-ramp": 2, "optimiser": "sgd", "lr": 0.02, "momentum": 0.5,
            "weight-decay": 0.001, "lr-schedule": "step", "lr-factor": 0.1, "lr-every": 2, "lr-start": 1,
            "initialisation": "ibp", "regulariser": 0.5, "regulariser-tolerance": 0.4, "clip": 3,
            "validation": 12, "validation-limit": 5, "validation-every": 2, "patience": 9, "seed": 7,
        }  # fmt: skip
        options = [word for name, value in given.items() for word in (f"--{name}", value)]
        done = verifix(*train(*options, "--lr-milestones", "2", "3"))
        assert (done.status, done.err) == (0, "")
        said = json.loads((place / "run" / "settings.json").read_text())["settings"]
        expected = {name.replace("-", "_"): value for name, value in given.items()}
        assert {name: said[name] for name in expected} == {**expected, "eps": 0.2, "eps_start": 0.01}
        assert said["lr_milestones"] == [2, 3]

    def test_terms_of_certified_training(self, verifix: Callable[..., Any], place: Path) -> None:
        weights = ["--beta", "1", "0", "--kappa", "1", "1/2", "--l1", "1e-5"]
        done = verifix(*train(*weights, "--eps-test", "1/50", "--eps-warmup", "1"))
        assert (done.status, done.err) == (0, "")
        assert "linf ball of radius 0.05, validation 0.02 within [0, 1]" in unfolded(done.out)
        shown = [" ".join(line.strip("│ ").split()).replace(" │", "") for line in done.out.splitlines()]
        assert {"beta 1 to 0", "kappa 1 to 0.5", "l1 1e-05"} <= set(shown)
        said = json.loads((place / "run" / "settings.json").read_text())["settings"]
        expected = {"beta": [1, 0], "kappa": [1, 0.5], "l1": 1e-5, "eps_test": 0.02, "eps_warmup": 1, "eps_start": 0}
        assert {name: said[name] for name in expected} == expected
        first, *_, last = log(place / "run")
        assert first["eps"] == 0.0 and first["train"]["objective"] == pytest.approx(first["train"]["loss"], rel=0.1)
        assert last["train"]["loss"] < last["train"]["objective"] < last["train"]["robust_loss"]
        assert last["validation"]["objective"] is None

    def test_weights_to_begin_with(self, verifix: Callable[..., Any], place: Path) -> None:
        verifix(*train("--epochs", "1", out="first"))
        verifix(*train("--epochs", "1", "--weights", "first/last.safetensors", "--lr", "1e-12", out="second"))
        first, second = (load_file(place / name / "last.safetensors") for name in ("first", "second"))
        for name, value in first.items():
            torch.testing.assert_close(second[name], value, rtol=0, atol=1e-9)

    def test_batch_norm_with_statistics_of_clean_inputs(self, verifix: Callable[..., Any], place: Path) -> None:
        how = ["--batch-norm", "clean", "--initialisation", "ibp", "--regulariser", "0.5", "--method", "ibp"]
        done = verifix(*train(*how, model="networks:normed"))
        assert (done.status, done.err) == (0, "")
        state = load_file(place / "run" / "last.safetensors")
        assert int(state["2.num_batches_tracked"]) == 12  # the last step of each epoch has a single example
        assert not torch.equal(state["2.running_var"], torch.ones(16))
        assert all(line["train"]["objective"] >= line["train"]["robust_loss"] for line in log(place / "run"))
        common = ["networks:normed", "--weights", "run/best.safetensors", "--data", "digits", "--limit", "20"]
        certified = verifix("certify", *common, "--eps", "0.05", "--box", "0", "1", "--method", "ibp", "--out", "c")
        assert (certified.status, certified.err) == (0, "")

    def test_standard_training(self, verifix: Callable[..., Any], place: Path) -> None:
        arguments = ["--data", "digits", "--limit", "90", "--epochs", "2", "--method", "none", "--out", "run"]
        done = verifix("train", "networks:net", *arguments)
        assert (done.status, done.err) == (0, "")
        assert "perturbation" in done.out and "none" in done.out and "robust error" not in done.out
        assert log(place / "run")[0]["train"]["robust_error"] is None

    def test_an_exported_program(self, verifix: Callable[..., Any], place: Path) -> None:
        model = load_model("networks:net")
        shapes = {"input": {0: torch.export.Dim.AUTO}}
        program = torch.export.export(model, (load("digits").images[:2],), dynamic_shapes=shapes)
        torch.export.save(program, place / "net.pt2")
        done = verifix(*train("--mean", "0.3", model="net.pt2"))
        assert (done.status, done.err) == (0, "")
        options = ["--weights", "run/best.safetensors", "--mean", "0.3", "--data", "digits", "--limit", "9"]
        assert verifix("certify", "net.pt2", *options, "--eps", "0.05", "--out", "certified").status == 0
        before, after = model.state_dict(), load_file(place / "run" / "best.safetensors")
        assert before.keys() == after.keys() and not torch.equal(before["1.weight"], after["1.weight"])


class TestSmoothing:
    how = ("--data", "digits", "--limit", "90", "--epochs", "2", "--sigma", "0.3", "--batch", "20", "--out", "run")

    def test_every_setting_arrives(self, verifix: Callable[..., Any], place: Path) -> None:
        given = {
            "noises": 3, "validation-noises": 5, "adre-weight": 0.2, "probability-floor": 1e-5, "attack-eps": 0.5,
            "attack-steps": 3, "attack-step": 0.25, "attack-warmup": 1, "box": (0, 1),
        }  # fmt: skip
        options = [word for name, value in given.items() if name != "box" for word in (f"--{name}", value)]
        done = verifix("train", "networks:net", *self.how, "--method", "adre-adv", "--box", "0", "1", *options)
        assert (done.status, done.err) == (0, "")
        said = json.loads((place / "run" / "settings.json").read_text())["settings"]
        expected = {name.replace("-", "_"): list(v) if isinstance(v, tuple) else v for name, v in given.items()}
        assert {name: said[name] for name in expected} == expected
        assert (said["sigma"], said["method"], said["eps"]) == (0.3, "adre-adv", 0.0)
        assert "Gaussian noise of sigma 0.3, 3 copies of each example" in unfolded(done.out)
        assert "around points within l2 distance 0.5 within [0, 1] that an attack finds" in unfolded(done.out)

    @pytest.mark.parametrize("method", ["gaussian", "adre"])
    def test_says_what_was_measured_and_not_that_it_is_certified(
        self, method: str, verifix: Callable[..., Any], place: Path
    ) -> None:
        done = verifix("train", "networks:net", *self.how, "--method", method)
        assert (done.status, done.err) == (0, "")
        shown = unfolded(done.out)
        assert "noisy error" in shown and "error of votes" in shown and "radius (estimated)" in shown
        assert "certif" not in shown and "robust error" not in shown
        (line, _) = log(place / "run")
        assert line["train"]["objective"] is not None and line["train"]["robust_error"] is None
        assert line["validation"]["estimated_radius"] >= 0
        assert (place / "run" / "curves.png").stat().st_size > 1000

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--method", "gaussian", "--eps", "0.1"], "eps = 0.1: method gaussian trains under noise of sigma"),
            (["--method", "gaussian", "--sigma", "0"], "sigma = 0.0: must be finite and above 0"),
            (["--method", "gaussian", "--attack-eps", "1"], "attack_eps = 1.0: method gaussian has no use for it"),
            (["--method", "gaussian", "--stages", "2"], "method = gaussian: a cascade is made of what bounds certify"),
            (["--method", "smoothadv"], "attack_eps = None: method smoothadv needs the l2 radius"),
            (["--method", "cap", "--eps", "0.1"], "sigma = 0.3: method cap has no use for it"),
            (["--method", "adre", "--noises", "0"], "'0' is no whole number of at least 1"),
            (["--method", "adre", "--memory", "1000"], "memory = 1000: a training step needs at least"),
            (["--method", "adre", "--sigma", "1e-30"], "scale = 1e-30: "),
        ],
    )
    def test_one_line_and_nothing_written(
        self, refuses: Callable[..., None], arguments: list[str], message: str
    ) -> None:
        refuses(["train", "networks:net", *self.how, *arguments], message)

    def test_sigkill_changes_no_bit(
        self, start: Callable[..., subprocess.Popen[str]], verifix: Callable[..., Any], place: Path
    ) -> None:
        how = [*self.how[:-1], "killed", "--epochs", "12", "--method", "smoothadv", "--attack-eps", "0.5"]
        how += ["--threads", "1", "--checkpoint-seconds", "0.02"]
        killed = start("train", "networks:normed", *how, cwd=place)
        wait_until(killed, lambda: epochs_done(place / "killed") > 0)
        kill(killed)
        assert epochs_done(place / "killed") < 12
        resumed = verifix("train", "networks:normed", *how, "--resume")
        whole = verifix("train", "networks:normed", *how, "--out", "whole")
        assert (resumed.status, whole.status) == (0, 0)
        assert log(place / "killed") == log(place / "whole")
        for name in ("best.safetensors", "last.safetensors"):
            assert (place / "killed" / name).read_bytes() == (place / "whole" / name).read_bytes()


def unfolded(table: str) -> str:
    """What a table says, without its lines."""
    return " ".join(word for word in table.replace("\u2502", " ").split())


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--eps", "-0.1"], "eps = -0.1: must be finite"),
            (["--eps", "x"], "'x' is no number"),
            (["--norm", "l7"], "norm = 'l7': choose one of linf, l2, l1"),
            (["--method", "caps"], "method = 'caps': choose one of"),
            (["--method", "none"], "eps = 0.05: method none trains without perturbations: leave eps out"),
            (["--estimator", "median"], "estimator = median:50: has nothing to estimate in crown-ibp"),
            (["--estimator", "median", "--method", "cap", "--norm", "l2"], "estimator = median:50: estimates l1 norms"),
            (["--box", "0", "0.5"], "inputs outside the box"),
            (["--eps-schedule", "steep"], "eps_schedule = 'steep': choose one of"),
            (["--eps-ramp", "9"], "eps_ramp = 9.0: must be at most epochs = 3"),
            (["--eps-test", "0.1"], "eps_test = 0.1: must be at most eps = 0.05, which training is for"),
            (["--beta", "1", "2"], "beta = 1 2: both, at the start and at the end, must lie within [0, 1]"),
            (["--beta", "1", "0", "--method", "ibp"], "beta = (1.0, 0.0): mixes a bound with that of ibp"),
            (["--eps-warmup", "3"], "eps_warmup = 3.0: must be below epochs = 3"),
            (["--optimiser", "x"], "optimiser = 'x': choose one of adam, sgd"),
            (["--lr", "0"], "lr = 0.0: must be finite and above 0"),
            (["--validation", "90"], "validation = 90.0: leaves nothing of 90 examples to train on"),
            (["--data", "digit"], "data = digit: use digits, mnist:DIR"),
            (["--device", "cuda:99"], "device = cuda:99: cannot be used here"),
            (["--weights", "none.pth"], "weights = none.pth: no such file"),
            (["--epochs", "0"], "'0' is no whole number of at least 1"),
            (["--batch-norm", "clean"], "batch_norm = clean: the network has no batch norm to train"),
            (
                ["--initialisation", "ibp", "--weights", "some.pth"],
                "weights = some.pth: --initialisation draws new ones",
            ),
            (["--initialisation", "xavier"], "initialisation = 'xavier': choose one of none, ibp"),
        ],
    )
    def test_one_line_and_nothing_written(
        self, refuses: Callable[..., None], arguments: list[str], message: str
    ) -> None:
        refuses(train(*arguments), message)

    def test_no_radius(self, verifix: Callable[..., Any], place: Path) -> None:
        done = verifix("train", "networks:net", "--data", "digits", "--out", "run")
        assert done.status == 2
        assert "eps = None: name the radius to train for" in done.err

    def test_a_loss_that_is_not_finite(self, verifix: Callable[..., Any], place: Path) -> None:
        done = verifix(*train("--lr", "1e30"))
        assert done.status == 2
        assert done.err.count("\n") == 1
        assert "epoch 1, step " in done.err and "lr = 1e+30" in done.err and "run keeps its last checkpoint" in done.err
        kept = torch.load(place / "run" / "checkpoint.pt", weights_only=True)
        assert all(bool(torch.isfinite(value).all()) for value in kept["model"].values())


class TestKilled:
    def test_sigkill_changes_no_bit(
        self, start: Callable[..., subprocess.Popen[str]], verifix: Callable[..., Any], place: Path
    ) -> None:
        how = ["--limit", "200", "--epochs", "8", "--lr", "0.01", "--threads", "1", "--checkpoint-seconds", "0.02"]
        how += ["--method", "cap", "--estimator", "median:10"]
        killed = start(*train(*how, model="networks:deep", out="killed"), cwd=place)
        wait_until(killed, lambda: epochs_done(place / "killed") > 0)
        time.sleep(0.7 * random.Random().random())  # no seed: the clock decides anyway where this is
        kill(killed)
        assert killed.returncode == -signal.SIGKILL
        assert epochs_done(place / "killed") < 8
        resumed = verifix(*train(*how, "--resume", model="networks:deep", out="killed"))
        whole = verifix(*train(*how, model="networks:deep", out="whole"))
        assert (resumed.status, whole.status) == (0, 0)
        for name in ("best.safetensors", "last.safetensors"):
            assert (place / "killed" / name).read_bytes() == (place / "whole" / name).read_bytes()
        assert log(place / "killed") == log(place / "whole")

    @pytest.mark.slow
    def test_sigterm_says_how_to_go_on(self, start: Callable[..., subprocess.Popen[str]], place: Path) -> None:
        process = start(*train("--epochs", "5000"), cwd=place)
        wait_until(process, lambda: epochs_done(place / "run") > 0)
        process.terminate()
        _, err = process.communicate()
        assert process.returncode == 130
        assert "of 5000 epochs are done; run the same with --resume to go on" in err.splitlines()[-1]


class TestTorchrun:
    """Two processes by gloo against one, in float64: what differs is the order in which gradients are summed."""

    def torchrun(self, *args: object, cwd: Path, processes: int = 2) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command += ["-m", "verifix", *(str(arg) for arg in args)]
        path = [entry for entry in (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")) if entry]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)

    def test_two_processes_train_as_one(self, verifix: Callable[..., Any], place: Path) -> None:
        # batches of 27 are shared as 13 and 14; the last one, of a single example, as none and 1
        how = ["--dtype", "float64", "--batch", "27", "--validation", "8", "--clip", "0.5", "--epochs", "4"]
        # projections that both processes must share, and a budget for about six examples at once
        how += ["--method", "cap", "--estimator", "median:10", "--memory", "11MiB"]
        how += ["--landscape-every", "3", "--landscape-points", "2"]
        one = verifix(*train(*how, model="networks:deep", out="one"))
        assert one.status == 0
        two = self.torchrun(*train(*how, model="networks:deep", out="two"), cwd=place)
        assert two.returncode == 0, two.stderr
        assert two.stdout.count("best epoch") == 1  # one process alone speaks
        for ours, theirs in zip(log(place / "one"), log(place / "two"), strict=True):
            assert_close(ours, theirs)
        ours, theirs = (load_file(place / name / "last.safetensors") for name in ("one", "two"))
        for name, value in ours.items():
            torch.testing.assert_close(theirs[name], value, rtol=1e-7, atol=1e-9)
        first, second = (log(place / name, "landscape.jsonl") for name in ("one", "two"))
        assert [line["step"] for line in first] == [1, 4, 3, 2, 1, 4]  # the fourth batch is the one of a single example
        for line, other in zip(first, second, strict=True):
            assert line["units"] == other["units"]
            for name in ("loss", "gradient", "distance"):
                assert line["target"][name] == pytest.approx(other["target"][name], rel=1e-6, abs=1e-9)

    @pytest.mark.slow
    def test_two_processes_minimise_the_terms_of_one(self, verifix: Callable[..., Any], place: Path) -> None:
        # what is no sum over examples must count once, with uneven shares and none at all
        how = ["--dtype", "float64", "--batch", "27", "--validation", "8", "--epochs", "4", "--eps-warmup", "1"]
        how += ["--beta", "1", "0.3", "--kappa", "1", "0.5", "--l1", "0.001", "--eps-ramp", "2"]
        one = verifix(*train(*how, model="networks:deep", out="one"))
        assert one.status == 0
        two = self.torchrun(*train(*how, model="networks:deep", out="two"), cwd=place)
        assert two.returncode == 0, two.stderr
        for ours, theirs in zip(log(place / "one"), log(place / "two"), strict=True):
            assert_close(ours, theirs)
        ours, theirs = (load_file(place / name / "last.safetensors") for name in ("one", "two"))
        for name, value in ours.items():
            torch.testing.assert_close(theirs[name], value, rtol=1e-7, atol=1e-9)

    @pytest.mark.slow
    def test_two_processes_train_under_noise_as_one(self, verifix: Callable[..., Any], place: Path) -> None:
        # uneven shares and none at all, as above; points that an attack finds
        how = ["--data", "digits", "--limit", "90", "--dtype", "float64", "--batch", "27", "--validation", "8"]
        how += ["--epochs", "3", "--method", "adre-adv", "--sigma", "0.3", "--noises", "2", "--attack-eps", "0.5"]
        one = verifix("train", "networks:deep", *how, "--out", "one")
        assert one.status == 0
        two = self.torchrun("train", "networks:deep", *how, "--out", "two", cwd=place)
        assert two.returncode == 0, two.stderr
        for ours, theirs in zip(log(place / "one"), log(place / "two"), strict=True):
            assert_close(ours, theirs)
        ours, theirs = (load_file(place / name / "last.safetensors") for name in ("one", "two"))
        for name, value in ours.items():
            torch.testing.assert_close(theirs[name], value, rtol=1e-7, atol=1e-9)
        # batch norm has statistics of shares, and dropout draws for them; both processes end with the same
        again = self.torchrun("train", "networks:normed", *how, "--out", "norm", cwd=place)
        assert again.returncode == 0, again.stderr
        state = load_file(place / "norm" / "last.safetensors")
        assert int(state["2.num_batches_tracked"]) == 12
        assert torch.isfinite(state["2.running_var"]).all()

    @pytest.mark.slow
    def test_two_processes_find_the_population(self, place: Path) -> None:
        how = ["--dtype", "float64", "--batch", "27", "--validation", "0", "--batch-norm", "clean", "--limit", "82"]
        two = self.torchrun(*train(*how, model="networks:normed"), cwd=place)
        assert two.returncode == 0, two.stderr
        model = load_model("networks:normed", place / "run" / "last.safetensors", dtype=torch.float64)
        found = {name: value.clone() for name, value in model.state_dict().items()}
        assert int(found["2.num_batches_tracked"]) == 9  # the last step of each epoch has a single example
        x = load("digits:train").first(82).images.double()
        hidden = model[1](x.flatten(1))  # type: ignore[index]
        torch.testing.assert_close(found["2.running_mean"], hidden.mean(0), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found["2.running_var"], hidden.var(0), rtol=1e-9, atol=1e-12)

    @pytest.mark.slow
    def test_resumes_and_says_what_is_wrong(self, place: Path) -> None:
        done = self.torchrun(*train(), cwd=place)
        assert done.returncode == 0, done.stderr
        before = log(place / "run")
        again = self.torchrun(*train("--resume"), cwd=place)
        assert again.returncode == 0, again.stderr
        assert log(place / "run") == before
        refused = self.torchrun(*train(), cwd=place)
        assert refused.returncode != 0
        assert "holds a run already: add --resume" in refused.stderr


def assert_close(ours: Any, theirs: Any) -> None:
    """Equal, but for rounding: sums of gradients in another order differ by some units of 1e-16, which Adam may enlarge
    by one over its own epsilon (1e-8) where a gradient vanishes; a few steps of 1e-3 cannot make more of that."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert_close(value, theirs[key])
    else:
        assert theirs == (pytest.approx(ours, rel=1e-7) if isinstance(ours, float) else ours)
