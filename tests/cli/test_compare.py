"""``verifix compare``: what it runs, and what it writes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.cli import comparing
from tests.cli.comparing import cells, compare
from tests.cli.written import summary_of
from verifix.certify.run import certify_run
from verifix.compare.settings import CERTIFY_METHOD
from verifix.models import load_model

NETWORKS = comparing.NETWORKS
COLUMNS = 13


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
        assert verifix("certify", "networks:net", *common, "--method", CERTIFY_METHOD, "--out", "all").status == 0
        assert verifix("certify", "networks:net", *common, "--method", "crown-ibp", "--out", "own").status == 0
        attack = "pgd(steps=100, relative_step_size=0.25, start_from='input')"
        assert verifix("attack", "networks:net", *common, "--attack", attack, "--out", "attack").status == 0
        certified, own, attacked = (summary_of(place / name) for name in ("all", "own", "attack"))
        assert cell["verified_error"] == certified["certified_error"]
        assert cell["own_error"] == own["certified_error"]
        assert cell["standard_error"] == certified["clean_error"] == pytest.approx(1 - attacked["clean_accuracy"])
        assert cell["attacked_error"] == pytest.approx(1 - attacked["robust_accuracy"])
        trained = ["train", "networks:net", "--data", "digits", "--limit", "90", "--epochs", "2", "--lr", "0.01"]
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
            begin = load_model("networks:net").state_dict()
            for method in ("ibp", "none"):
                ends = load_file(place / "run" / f"{method}-0.05-{seed}" / "train" / "last.safetensors")
                for name, value in begin.items():
                    torch.testing.assert_close(ends[name], value, rtol=0, atol=1e-9)

    def test_several_seeds_have_a_mean_and_a_deviation(self, verifix: Callable[..., Any], place: Path) -> None:
        assert verifix(*compare("--methods", "ibp", "--seeds", "3,4,5")).status == 0
        rates = [cell["verified_error"] for cell in cells(place / "run").values()]
        (group,) = summary_of(place / "run")["groups"]
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
