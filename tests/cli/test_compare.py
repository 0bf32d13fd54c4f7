from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from verifix.bounds import Method
from verifix.certify.run import certify_run
from verifix.compare.settings import CERTIFY_METHOD
from verifix.data import load
from verifix.models import load_model
from verifix.sets import Ball

NETWORKS = """
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))

def ends_with_relu():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU())

def too_few_classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))

def for_vectors():
    return nn.Sequential(nn.Flatten(), nn.Linear(65, 10))
"""
COLUMNS = 13


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with networks of the user's own."""
    (tmp_path / "own_networks.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    sys.modules.pop("own_networks", None)
    return tmp_path


def compare(*args: object, model: str = "own_networks:net", out: str = "run") -> list[object]:
    """A command line that is right, and what a test adds to it; of options named twice the last one counts."""
    usual = ["--data", "digits", "--box", "0", "1", "--methods", "ibp,crown-ibp", "--eps", "0.05", "--limit", "30"]
    usual += ["--train-limit", "90", "--epochs", "2", "--lr", "0.01", "--attack-steps", "10"]
    return ["compare", model, *usual, "--out", out, *args]


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def cells(folder: Path) -> dict[str, dict[str, Any]]:
    return {cell["folder"]: cell for cell in summary(folder)["cells"]}


def found(folder: Path) -> list[dict[str, Any]]:
    """All that the comparison found, without what it cost."""
    costs = ("training_seconds", "validation_seconds", "seconds_per_epoch", "certification_seconds", "own_seconds")
    skip = (*costs, "attack_seconds", "peak_memory")
    return [{name: value for name, value in cell.items() if name not in skip} for cell in summary(folder)["cells"]]


def results(folder: Path) -> dict[str, bytes]:
    """What every run in it decided, and the weights."""
    paths = [*folder.glob("*/*/results.jsonl"), *folder.glob("*/train/*.safetensors")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(paths)}


class TestRun:
    def test_trains_certifies_attacks_and_tabulates(self, verifix: Callable[..., Any], place: Path) -> None:
        options = ["--methods", "ibp,tight-smooth,fgsm", "--eps", "0.05,0.1", "--eps-train", "0.06,1/10"]
        done = verifix(*compare(*options))
        assert done.status == 0
        assert "all columns, single seeds and notes: run/table.md" in done.out
        lines = [line for line in done.err.splitlines() if "under attack" in line]
        names = [f"{method}:{eps}:0" for method in ("ibp", "tight-smooth", "fgsm") for eps in ("0.05", "0.1")]
        assert [line.partition(": ")[0] for line in lines] == names

        assert {path.name for path in (place / "run").iterdir() if path.is_file()} == {
            "comparison.json", "summary.json", "table.md", "compare.png"
        }  # fmt: skip
        kinds = {path.name for path in (place / "run" / "ibp-0.1-0").iterdir()}
        assert kinds == {"train", "certify", "own", "attack", "cell.json"}
        table = [line for line in (place / "run" / "table.md").read_text().splitlines() if line.startswith("|")]
        assert [line.count("|") for line in table] == [COLUMNS + 1] * 8
        for cell in cells(place / "run").values():
            errors = cell["errors"]
            assert errors["n"] == 30
            assert errors["standard"] <= errors["attacked"] <= errors["verified"]
            assert cell["verified_error"] == errors["verified"] / 30
            assert (cell["eps"], cell["eps_train"]) in ((0.05, 0.06), (0.1, 0.1))
            bounded = cell["method"] != "fgsm"
            assert (errors["own"] is None) == (not bounded) == (cell["own_method"] is None)
            assert not bounded or errors["verified"] <= errors["own"]
            assert all(cell[name] > 0 for name in ("training_seconds", "certification_seconds", "attack_seconds"))
            assert cell["peak_memory"] > 2**20
            assert cell["validation"]["examples"] == 9

    def test_what_it_says_is_what_the_other_commands_say(self, verifix: Callable[..., Any], place: Path) -> None:
        assert (
            verifix(*compare("--methods", "crown-ibp", "--attack-restarts", "1", "--attack-steps", "100")).status == 0
        )
        folder = place / "run" / "crown-ibp-0.05-0"
        cell = cells(place / "run")["crown-ibp-0.05-0"]
        weights = ["--weights", folder / "train" / "best.safetensors", "--data", "digits", "--limit", "30"]
        common = [*weights, "--eps", "0.05", "--box", "0", "1"]
        assert verifix("certify", "own_networks:net", *common, "--method", CERTIFY_METHOD, "--out", "all").status == 0
        assert verifix("certify", "own_networks:net", *common, "--method", "crown-ibp", "--out", "own").status == 0
        attack = "pgd(steps=100, relative_step_size=0.25, start_from='input')"
        assert verifix("attack", "own_networks:net", *common, "--attack", attack, "--out", "attack").status == 0
        certified, own, attacked = (summary(place / name) for name in ("all", "own", "attack"))
        assert cell["verified_error"] == certified["certified_error"]
        assert cell["own_error"] == own["certified_error"]
        assert cell["standard_error"] == certified["clean_error"] == pytest.approx(1 - attacked["clean_accuracy"])
        assert cell["attacked_error"] == pytest.approx(1 - attacked["robust_accuracy"])
        trained = ["train", "own_networks:net", "--data", "digits", "--limit", "90", "--epochs", "2", "--lr", "0.01"]
        assert verifix(*trained, "--box", "0", "1", "--eps", "0.05", "--method", "crown-ibp", "--out", "t").status == 0
        assert (place / "t" / "best.safetensors").read_bytes() == (folder / "train" / "best.safetensors").read_bytes()

    def test_every_network_of_a_seed_begins_with_the_same_weights(
        self, verifix: Callable[..., Any], place: Path
    ) -> None:
        # so small a learning rate that training leaves them where they are
        done = verifix(*compare("--methods", "ibp,none", "--seeds", "0,5", "--lr", "1e-12", "--epochs", "1"))
        assert done.status == 0
        for seed in (0, 5):
            torch.manual_seed(seed)
            begin = load_model("own_networks:net").state_dict()
            for method in ("ibp", "none"):
                ends = load_file(place / "run" / f"{method}-0.05-{seed}" / "train" / "last.safetensors")
                for name, value in begin.items():
                    torch.testing.assert_close(ends[name], value, rtol=0, atol=1e-9)

    def test_several_seeds_have_a_mean_and_a_deviation(self, verifix: Callable[..., Any], place: Path) -> None:
        assert verifix(*compare("--methods", "ibp", "--seeds", "3,4,5")).status == 0
        rates = [cell["verified_error"] for cell in cells(place / "run").values()]
        (group,) = summary(place / "run")["groups"]
        assert group["seeds"] == [3, 4, 5]
        assert group["verified_error_mean"] == pytest.approx(np.mean(rates))
        assert group["verified_error_std"] == pytest.approx(np.std(rates, ddof=1))
        text = (place / "run" / "table.md").read_text()
        assert f"| {100 * np.mean(rates):.2f} ± {100 * np.std(rates, ddof=1):.2f} |" in text
        assert "Single seeds:" in text and text.count("\n| ibp | 0.05 |") == 4

    def test_settings_of_one_method_alone(self, verifix: Callable[..., Any], place: Path) -> None:
        assert verifix(*compare("--methods", "ibp,ibp(lr=0.001, batch=30)", "--seed", "2")).status == 0
        known = cells(place / "run")
        assert list(known) == ["ibp-0.05-2", "ibp_lr=0.001_batch=30-0.05-2"]
        lrs = [(cell["settings"]["lr"], cell["settings"]["batch"]) for cell in known.values()]
        assert lrs == [(0.01, 50), (0.001, 30)]

    def test_measures_the_landscape_where_that_is_asked_for(self, verifix: Callable[..., Any], place: Path) -> None:
        options = ["--methods", "ibp", "--landscape-every", "1", "--landscape-points", "2"]
        assert verifix(*compare(*options)).status == 0
        lines = (place / "run" / "ibp-0.05-0" / "train" / "landscape.jsonl").read_text().splitlines()
        assert len(lines) == 4  # two epochs of two steps
        refused = verifix(*compare("--methods", "ibp,fgsm", "--landscape-every", "1", out="other"))
        assert refused.status == 2 and "method fgsm" in refused.err and not (place / "other").exists()

    def test_what_a_method_has_no_use_for_is_left_out(self, verifix: Callable[..., Any], place: Path) -> None:
        options = ["--methods", "ibp,crown-ibp,none,fgsm", "--beta", "1", "0", "--kappa", "0.5", "0"]
        assert verifix(*compare(*options, "--initialisation", "ibp", "--eps-train", "0.1")).status == 0
        known = [cell["settings"] for cell in cells(place / "run").values()]
        assert [settings["beta"] for settings in known] == [[1, 1], [1, 0], [1, 1], [1, 1]]
        assert [settings["kappa"] for settings in known] == [[0.5, 0], [0.5, 0], [0, 0], [0, 0]]
        assert [settings["initialisation"] for settings in known] == ["ibp", "ibp", "ibp", "none"]
        assert [settings["eps_test"] for settings in known] == [0.05, 0.05, None, None]
        assert cells(place / "run")["crown-ibp-0.05-0"]["own_method"] == "crown-ibp+ibp"


class TestDiverged:
    def test_is_a_result_and_does_not_stop_the_others(self, verifix: Callable[..., Any], place: Path) -> None:
        done = verifix(*compare("--methods", "crown-ibp(lr=1e30),ibp"))
        assert done.status == 0
        note = done.err.splitlines()[-1]
        assert note.startswith("verifix: note: crown-ibp(lr=1e30):0.05:0 diverged: ") and "lr = 1e+30" in note
        (diverged, fine) = cells(place / "run").values()
        assert (diverged["status"], fine["status"]) == ("diverged", "done")
        assert "epoch 1, step " in diverged["message"] and diverged["errors"] is None
        text = (place / "run" / "table.md").read_text()
        assert re.search(r"\| crown-ibp\(lr=1e30\) \| 0.05 \| 0.05 \| 0 \(diverged\) \| - \|", text)
        assert "epoch 1, step " in text
        stamp = (place / "run" / "crown-ibp_lr=1e30-0.05-0" / "cell.json").stat().st_mtime_ns
        again = verifix(*compare("--methods", "crown-ibp(lr=1e30),ibp", "--resume"))
        assert again.status == 0 and "diverged" in again.err
        assert (place / "run" / "crown-ibp_lr=1e30-0.05-0" / "cell.json").stat().st_mtime_ns == stamp


class TestTable:
    def test_cuts_nothing_in_eighty_columns(
        self, verifix: Callable[..., Any], place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        methods = "ibp(optimiser='sgd', lr=1e-9),tight-smooth:slopes=own:start=same"
        options = ["--methods", methods, "--eps", "8/255", "--seeds", "0,1", "--epochs", "1"]
        done = verifix(*compare(*options))
        assert done.status == 0
        assert "…" not in done.out
        assert all(len(line) <= 80 and line[-1] in "│┃┓┩┘" for line in done.out.splitlines() if line[0] in "│┃┏┡└")
        assert {"standard", "verified", "0.03137"} <= set(done.out.split())

    @pytest.mark.parametrize(
        ("methods", "note"),
        [
            ("ibp,cap", "No examples were held out to choose an epoch by: it is the last one that was tested; the"),
            ("ibp,cap(validation=9)", "held out of the training set (of ibp, which held out none, the last one); the"),
        ],
    )
    def test_says_which_epoch(self, verifix: Callable[..., Any], place: Path, methods: str, note: str) -> None:
        assert verifix(*compare("--methods", methods, "--validation", "0")).status == 0
        assert note in (place / "run" / "table.md").read_text()
        assert cells(place / "run")["ibp-0.05-0"]["best_epoch"] == 2


class TestBroken:
    def test_is_loud(self, verifix: Callable[..., Any], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With margins that are made up, so that everything is certified."""

        def liar(*args: Any, certifier: Any, **named: Any) -> Any:
            def decide(x: Any, y: Any, inputs: Any) -> Any:
                answers = certifier(x, y, inputs)
                answers.verdicts[:] = "verified"
                answers.margin[:] = 1.5
                return answers

            return certify_run(*args, certifier=decide, **named)

        monkeypatch.setattr("verifix.compare.cell.certify_run", liar)
        done = verifix(*compare("--eps", "0.3"))
        assert done.status == 1
        last = done.err.splitlines()[-1]
        assert last.startswith("verifix: CERTIFICATE BROKEN: ibp-0.3-0: input ") and "margin at least 1.5" in last
        assert not (place / "run" / "ibp-0.3-0" / "cell.json").exists()
        monkeypatch.undo()


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--methods", "ibp,caps"], "method = 'caps': of caps at 0.05: choose one of ibp"),
            (["--methods", "ibp,tight-smooth:step=-1"], "step"),
            (["--methods", "ibp,crown-ibp,ibp"], "methods = ibp:0.05:0: is the same as ibp:0.05:0"),
            (["--methods", "cap,backward:same"], "methods = backward:same:0.05:0: is the same as cap:0.05:0"),
            (["--methods", "ibp,gaussian"], "methods = gaussian: trains for randomized smoothing"),
            (["--methods", "ibp,msd"], "methods = msd: trains for unions of balls"),
            (["--methods", "ibp(eps=1)"], "methods = ibp(eps=1): eps differs from cell to cell"),
            (["--methods", "ibp,cap(norm='l2')"], "methods = cap(norm='l2'): norm is that of the test, the same for"),
            (["--methods", "ibp,cap(box=(0, 2))"], "methods = cap(box=(0, 2)): box is that of the test, the same for"),
            (["--methods", "ibp,,cap"], "methods = ibp, , cap: has an empty name"),
            (["--landscape-points", "3"], "landscape_points = 3: goes with --landscape-every"),
            (["--landscape-fresh"], "landscape_fresh = True: goes with --landscape-every"),
            (["--methods", "ibp(lr)"], "methods = ibp(lr): settings go by name"),
            (["--methods", "ibp(rate=1)"], "rate"),
            (["--methods", "ibp,cap(lr=0)"], "lr = 0: of cap(lr=0) at 0.05: must be finite and above 0"),
            (["--eps", "0.05,0.05"], "methods = ibp:0.05:0: is the same as ibp:0.05:0"),
            (["--eps", "0"], "eps = 0.0: must be above 0"),
            (["--eps", "0.05,0.1", "--eps-train", "0.05"], "eps_train = 0.05: give one radius for each of the 2"),
            (["--eps", "0.05", "--eps-train", "0.04"], "eps_train = 0.04: must be at least eps = 0.05"),
            (["--beta", "2", "0"], "beta"),
            (
                ["--beta", "1", "0", "--methods", "ibp,fgsm"],
                "beta = (1.0, 0.0): of ibp at 0.05: mixes a bound with that of",
            ),
            (["--initialisation", "ibp", "--weights", "w.pth"], "weights = w.pth: --initialisation draws new ones"),
            (["--certify-method", "ibp+x"], "method = 'x': choose one of"),
            (["--data", "digits:train"], "data = digits:train: both sets are used"),
            (["--data", "npz:x.npz"], "test_data = None: npz:x.npz holds a single set"),
            (["--box", "0", "0.5"], "inputs outside the box"),
            (["--only", "ibp:0.05:1"], "only = ibp:0.05:1: is no cell"),
            (["--memory", "1000"], "memory = 1000: "),
            (["--validation", "90"], "validation = 90.0: leaves nothing of 90 examples to train on"),
            (["--seeds", "1,x"], "'x' is no whole number"),
        ],
    )
    def test_one_line_and_nothing_written(
        self, verifix: Callable[..., Any], place: Path, arguments: list[str], message: str
    ) -> None:
        done = verifix(*compare(*arguments))
        assert (done.status, done.out) == (2, "")
        assert message in done.err and done.err.count("\n") == 1
        assert not (place / "run").exists()

    @pytest.mark.parametrize(
        ("model", "message"),
        [
            ("own_networks:ends_with_relu", "is not linear: give logits"),
            ("own_networks:too_few_classes", "gives 4 outputs, but the data has 10 classes"),
            ("own_networks:for_vectors", "MODEL = own_networks:for_vectors: fails on inputs of shape (2, 1, 8, 8)"),
        ],
    )
    def test_a_network_that_does_not_fit(
        self, verifix: Callable[..., Any], place: Path, model: str, message: str
    ) -> None:
        done = verifix(*compare(model=model))
        assert (done.status, done.out) == (2, "")
        assert message in done.err and done.err.count("\n") == 1
        assert not (place / "run").exists()

    def test_a_test_set_that_does_not_fit(self, verifix: Callable[..., Any], place: Path) -> None:
        np.savez(place / "small.npz", x=np.zeros((3, 5), dtype=np.float32), y=np.array([0, 1, 2]))
        done = verifix(*compare("--test-data", "npz:small.npz"))
        assert done.status == 2 and "does not fit the training set" in done.err
        assert not (place / "run").exists()

    def test_a_folder_with_something_else(self, verifix: Callable[..., Any], place: Path) -> None:
        assert verifix(*compare("--methods", "ibp")).status == 0
        again = verifix(*compare("--methods", "ibp"))
        assert again.status == 2 and "out = run: holds a comparison already: add --resume" in again.err
        other = verifix(*compare("--methods", "ibp", "--resume", "--lr", "0.02", "--eps", "0.1"))
        assert other.status == 2 and "lr was 0.01, now 0.02" in other.err and "eps was 0.05, now 0.1" in other.err
        single = ["--data", "digits", "--eps", "0.1", "--limit", "5", "--out", "run"]
        refused = verifix("certify", "own_networks:net", *single)
        assert refused.status == 2 and "out = run: holds a comparison: choose another folder" in refused.err
        assert verifix("certify", "own_networks:net", *single[:-1], "c").status == 0
        assert "holds results of certify" in verifix(*compare("--methods", "ibp", out="c")).err


class TestOnly:
    def test_one_cell_after_the_other_gives_the_same_table(self, verifix: Callable[..., Any], place: Path) -> None:
        options = ["--methods", "ibp,both:zero,crown-ibp", "--eps", "8/255"]
        assert verifix(*compare(*options, out="whole")).status == 0
        two = ["--only", "both:zero:8/255:0", "--only", "crown-ibp:8/255:0"]
        assert verifix(*compare(*options, "--resume", *two, out="parts")).status == 0
        states = [cell["status"] for cell in cells(place / "parts").values()]
        assert states == ["not done", "done", "done"]
        assert "| 0 (not done) |" in (place / "parts" / "table.md").read_text()
        assert verifix(*compare(*options, "--resume", "--only", "ibp:8/255:0", out="parts")).status == 0
        assert found(place / "parts") == found(place / "whole")
        assert results(place / "parts") == results(place / "whole")


class TestInterrupted:
    options = ("--methods", "ibp,crown-ibp", "--epochs", "6", "--threads", "1", "--checkpoint-seconds", "0.02")

    @pytest.mark.parametrize("most", [2, pytest.param(12, marks=pytest.mark.slow)])
    def test_sigkill_changes_nothing(
        self, most: int, start: Callable[..., subprocess.Popen[str]], verifix: Callable[..., Any], place: Path
    ) -> None:
        assert verifix(*compare(*self.options, out="whole")).status == 0
        draw, kills, before = random.Random(0), 0, 0
        while kills < most:
            process = start(*compare(*self.options, "--resume", out="killed"), cwd=place)
            while process.poll() is None and size(place / "killed") <= before:
                time.sleep(0.002)
            time.sleep(draw.random() / 5)
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills, before = kills + 1, size(place / "killed")
        assert kills
        stamps = {path: path.stat().st_mtime_ns for path in (place / "killed").glob("*/cell.json")}
        assert verifix(*compare(*self.options, "--resume", out="killed")).status == 0
        assert found(place / "killed") == found(place / "whole")
        assert results(place / "killed") == results(place / "whole")
        assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())

    def test_sigint_says_how_to_go_on(self, start: Callable[..., subprocess.Popen[str]], place: Path) -> None:
        process = start(*compare("--methods", "ibp,crown-ibp", "--epochs", "5000"), cwd=place)
        while not (place / "run" / "ibp-0.05-0" / "train" / "checkpoint.pt").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
        assert process.returncode == 130
        assert "run: 0 of 2 cells are done; run the same command with --resume to continue" in err.splitlines()[-1]

    def test_cells_that_are_done_are_not_repeated(
        self, verifix: Callable[..., Any], place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert verifix(*compare()).status == 0
        before = results(place / "run")
        (place / "run" / "table.md").unlink()

        def refuse(*args: object, **named: object) -> None:
            raise AssertionError("a cell is done again")

        for name in ("train", "certify_run", "attack_run"):
            monkeypatch.setattr(f"verifix.compare.cell.{name}", refuse)
            monkeypatch.setattr(f"verifix.compare.rehearse.{name}", refuse)
        assert verifix(*compare("--resume")).status == 0
        assert results(place / "run") == before and (place / "run" / "table.md").exists()

    def test_a_result_of_other_settings_is_refused(self, verifix: Callable[..., Any], place: Path) -> None:
        assert verifix(*compare("--methods", "ibp")).status == 0
        path = place / "run" / "ibp-0.05-0" / "cell.json"
        content = json.loads(path.read_text())
        content["settings"]["lr"] = 0.5
        path.write_text(json.dumps(content))
        assert "lr was 0.5, now 0.01" in verifix(*compare("--methods", "ibp", "--resume")).err
        path.write_text("{")
        assert "remove it, and the cell is done again" in verifix(*compare("--methods", "ibp", "--resume")).err
        path.unlink()
        assert verifix(*compare("--methods", "ibp", "--resume")).status == 0


def size(folder: Path) -> int:
    """How much a comparison has written that only grows: lines of logs and of results."""
    return sum(path.stat().st_size for path in folder.glob("*/*/*.jsonl")) if folder.exists() else 0


class TestByCost:
    def test_has_the_verdicts_of_all_methods_at_once(self) -> None:
        from verifix.certify import certify
        from verifix.compare.certifier import by_cost
        from verifix.graph import capture

        torch.manual_seed(3)
        model = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, 40), torch.nn.ReLU(), torch.nn.Linear(40, 20), torch.nn.ReLU(),
            torch.nn.Linear(20, 10),
        ).eval()  # fmt: skip
        data = load("digits").first(60)
        x = data.images
        y = model(x).argmax(1)
        y[:5] = (y[:5] + 1) % 10  # which are falsified
        methods = (Method("interval", "constant"), Method("interval", "adaptive"), Method("backward", "same"))
        graph, inputs = capture(model, x[:2]), Ball("linf", eps=0.03, box=(0, 1)).around(x)
        staged = by_cost(graph, methods, None)(x, y, inputs)
        whole, cheap = (certify(graph, x, y, inputs, method=some) for some in (methods, methods[:2]))
        assert staged.verdicts.tolist() == whole.verdicts.tolist()
        assert torch.equal(staged.predictions, whole.predictions)
        assert (staged.margin <= whole.margin).all() and ((staged.margin > 0) == (whole.margin > 0)).all()
        kinds = set(whole.verdicts)
        assert kinds == {"verified", "falsified", "unknown"}
        assert (cheap.verdicts != whole.verdicts).any()  # so that both stages are needed here


@pytest.mark.slow
class TestDigits:
    def test_a_comparison_worth_the_name(self, verifix: Callable[..., Any], place: Path) -> None:
        options = ["--methods", "none,ibp,crown-ibp,tight-smooth", "--eps", "0.1", "--epochs", "24", "--eps-ramp", "12"]
        options += ["--batch", "32", "--lr", "2e-3", "--train-limit", "900", "--limit", "150"]
        options += ["--initialisation", "ibp", "--regulariser", "0.5"]
        model = ["verifix.zoo:digits_small", "--data", "digits", "--box", "0", "1"]
        assert verifix("compare", *model, *options, "--out", "run").status == 0
        verified = {cell["method"]: cell["verified_error"] for cell in cells(place / "run").values()}
        for cell in cells(place / "run").values():
            errors = cell["errors"]
            assert errors["standard"] <= errors["attacked"] <= errors["verified"]
        for method in ("ibp", "crown-ibp", "tight-smooth"):
            assert verified[method] < verified["none"] - 0.1
