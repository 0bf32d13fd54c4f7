"""``verifix smooth``: what its actions write, print and refuse, and that a run survives being killed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.cli.killing import kill, wait_for_results
from tests.cli.written import lines, summary_of
from verifix.data import load
from verifix.text import rounded_down

NETWORKS = """
import torch
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

class Broken(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :10] * torch.nan

def one():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
"""


@pytest.fixture
def place(place: Path) -> Path:
    """A working folder with a network of the user's own, a little trained."""
    import networks  # type: ignore[import-not-found]

    torch.manual_seed(0)
    model: nn.Module = networks.net()
    data, optimizer = load("digits:train"), torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        images = data.images[:500] + torch.randn(500, 1, 8, 8) / 5
        torch.nn.functional.cross_entropy(model(images), data.labels[:500]).backward()
        optimizer.step()
    save_file(model.state_dict(), place / "net.safetensors")
    return place


def command(action: str, *args: object, model: str = "networks:net") -> list[object]:
    weights = ["--weights", "net.safetensors"] if model == "networks:net" else []
    start = ["smooth", action, model, *weights, "--data", "digits", "--limit", "12", "--n", "500", "--alpha", "0.01"]
    return [*start, "--out", "run", *args]


SIGMA = ("--sigma", "0.2")


class TestCertify:
    def test_results_and_table(self, verifix: Callable[..., Any], place: Path) -> None:
        status, out, err = verifix(*command("certify", *SIGMA))
        assert (status, err) == (0, "")
        written, summary = lines(place / "run"), summary_of(place / "run")
        assert [line["input"] for line in written] == list(range(12))
        assert all(sum(line["counts"]) == 500 and sum(line["selection"]) == 100 for line in written)
        assert summary["outcomes"]["correct"] > 6
        assert f"{summary['outcomes']['correct']} correct" in out
        assert "not float sound" in " ".join(out.replace("│", " ").split())
        assert "0.99" in out
        assert rounded_down(summary["average_certified_radius"]) in out
        assert sorted(path.name for path in (place / "run").iterdir()) == [
            "results.jsonl", "sessions.jsonl", "settings.json", "summary.json", "timings.jsonl",
        ]  # fmt: skip

    def test_batch_and_threads_change_nothing(self, verifix: Callable[..., Any], place: Path) -> None:
        contents, before = set(), torch.get_num_threads()
        for number, extra in enumerate((["--batch", "1"], ["--batch", "4096"], ["--threads", "2"])):
            assert verifix(*command("certify", *SIGMA, *extra, "--out", f"run{number}")).status == 0
            contents.add((place / f"run{number}" / "results.jsonl").read_bytes())
        torch.set_num_threads(before)
        assert len(contents) == 1

    def test_skip_and_limit(self, verifix: Callable[..., Any], place: Path) -> None:
        assert verifix(*command("certify", *SIGMA, "--skip", "40", "--limit", "4")).status == 0
        assert [line["input"] for line in lines(place / "run")] == [0, 40, 80, 120]

    def test_lattice(self, verifix: Callable[..., Any], place: Path) -> None:
        status, out, _ = verifix(*command("certify", *SIGMA, "--lattice", "16"))
        assert status == 0
        assert "on inputs of the lattice" in " ".join(out.replace("│", " ").split())
        assert summary_of(place / "run")["float_sound"] is True

    def test_the_papers_rule_says_what_it_is_proven_at(self, verifix: Callable[..., Any], place: Path) -> None:
        _, out, _ = verifix(*command("certify", *SIGMA, "--rule", "t-certify-paper"))
        assert "at least 0.981, less than the 0.99 that was asked for" in " ".join(out.replace("│", " ").split())

    def test_a_level_is_never_rounded_up_to_certainty(self, verifix: Callable[..., Any], place: Path) -> None:
        for alpha, level in (("1e-7", "0.9999999"), ("1e-17", "0.999999999")):
            for action in ("certify", "predict"):
                _, out, _ = verifix(
                    *command(action, *SIGMA, "--limit", "1", "--out", f"{action}{alpha}"), "--alpha", alpha
                )
                shown = " ".join(out.replace("│", " ").split())
                assert f"with probability at least {level}" in shown
                assert "surely" not in shown and "less than" not in shown

    @pytest.mark.parametrize("question", [["--radius", "0.1"], ["--relative-width", "0.3"]])
    def test_stopping_early(self, verifix: Callable[..., Any], place: Path, question: list[str]) -> None:
        status, out, _ = verifix(*command("certify", *SIGMA, *question, "--n", "20000"))
        assert status == 0
        assert "yes" in out
        assert sum(sum(line["counts"]) for line in lines(place / "run")) < 12 * 10_000

    @pytest.mark.parametrize(
        ("noise", "norm"),
        [
            (["--noise", "laplace", "--scale", "0.1"], "l1"),
            (["--noise", "uniform", "--scale", "0.3"], "l1"),
            (["--noise", "splitting", "--scale", "0.5", "--lattice", "16"], "l1"),
            (["--noise", "keep-or-replace", "--keep", "0.9", "--lattice", "16"], "l0"),
            (["--noise", "ablation", "--keep", "50", "--null", "0"], "l0"),
            (["--noise", "flow", "--scale", "0.01"], "wasserstein"),
        ],
    )
    def test_families(self, verifix: Callable[..., Any], place: Path, noise: list[str], norm: str) -> None:
        status, out, err = verifix(*command("certify", *noise, "--limit", "3"))
        assert (status, err) == (0, "")
        summary = summary_of(place / "run")
        assert summary["norm"] == norm
        shown = " ".join(out.replace("│", " ").split())
        assert ("certificates hold surely" in shown) == ("splitting" in noise)
        assert ("on inputs of the lattice" in shown) == ("--lattice" in noise)
        assert ("as computed" in shown) == summary["float_sound"]

    def test_predict(self, verifix: Callable[..., Any], place: Path) -> None:
        status, out, err = verifix(*command("predict", *SIGMA))
        assert (status, err) == (0, "")
        assert sum(line["prediction"] == line["label"] for line in lines(place / "run")) > 6
        assert "most probable class" in out


class TestKilled:
    def test_resumed_run_has_the_same_bytes(
        self, start: Callable[..., subprocess.Popen[str]], verifix: Callable[..., Any], place: Path
    ) -> None:
        arguments = command("certify", *SIGMA, "--limit", "30", "--n", "20000")
        assert verifix(*arguments, "--out", "whole").status == 0
        expected = (place / "whole" / "results.jsonl").read_bytes()
        results = place / "run" / "results.jsonl"
        process = start(*arguments, cwd=place)
        wait_for_results(process, results.parent, 0)
        assert process.poll() is None
        kill(process)
        assert 0 < len(results.read_bytes()) < len(expected)
        assert expected.startswith(results.read_bytes())
        assert verifix(*arguments, "--resume").status == 0
        assert results.read_bytes() == expected
        one, other = (summary_of(place / name) for name in ("whole", "run"))
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


class TestReport:
    def test_runs_and_logs_on_one_figure(self, verifix: Callable[..., Any], place: Path) -> None:
        verifix(*command("certify", *SIGMA))
        status, out, err = verifix("smooth", "log", "run", "--out", "run.tsv")
        assert (status, err) == (0, "")
        assert "12 rows" in out
        status, out, err = verifix("smooth", "report", "a run=run", "run.tsv", "--out", "report", "--radii", "0", "0.1")
        assert (status, err) == (0, "")
        assert sorted(path.name for path in (place / "report").iterdir()) == [
            "certified_accuracy.json", "certified_accuracy.md", "certified_accuracy.png",
        ]  # fmt: skip
        numbers = json.loads((place / "report" / "certified_accuracy.json").read_text())["curves"]
        assert [curve["name"] for curve in numbers] == ["a run", "run"]
        assert all(log <= run for log, run in zip(numbers[1]["radii"], numbers[0]["radii"], strict=True))
        correct = sum(line["prediction"] == line["label"] for line in lines(place / "run"))
        table = (place / "report" / "certified_accuracy.md").read_text()
        assert f"| a run | {int(correct / 12 * 1000) / 10:.1f} |" in table
        assert "r = 0.1" in out

    def test_norms_are_told_apart(self, verifix: Callable[..., Any], place: Path) -> None:
        verifix(*command("certify", *SIGMA))
        verifix(*command("certify", "--noise", "laplace", "--scale", "0.2", "--out", "laplace"))
        verifix("smooth", "log", "laplace", "--out", "laplace.tsv")
        for mixed in (["run", "laplace"], ["laplace", "laplace.tsv"]):  # a log is of l2 where nothing is said
            status, out, err = verifix("smooth", "report", *mixed, "--out", "report")
            assert (status, out) == (2, "")
            assert "radii of one norm share a figure" in err
            assert "laplace (l1)" in err
            assert not (place / "report").exists()
        status, _, err = verifix("smooth", "report", "laplace", "b=laplace.tsv", "--norm", "l1", "--out", "report")
        assert (status, err) == (0, "")
        numbers = json.loads((place / "report" / "certified_accuracy.json").read_text())["curves"]
        assert [curve["norm"] for curve in numbers] == ["l1", "l1"]

    def test_names_tell_runs_apart_and_unfinished_ones(self, verifix: Callable[..., Any], place: Path) -> None:
        verifix(*command("certify", *SIGMA, "--out", "a/run"))
        verifix(*command("certify", *SIGMA, "--seed", "1", "--out", "b/run"))
        results = place / "b" / "run" / "results.jsonl"
        verifix("smooth", "report", "a/run", "b/run", "--out", "report")
        numbers = json.loads((place / "report" / "certified_accuracy.json").read_text())["curves"]
        assert [curve["name"] for curve in numbers] == ["a/run", "b/run"]
        results.write_text("".join(results.read_text().splitlines(keepends=True)[:5]))
        verifix("smooth", "report", "a/run", "b/run", "--out", "report")
        numbers = json.loads((place / "report" / "certified_accuracy.json").read_text())["curves"]
        assert [curve["name"] for curve in numbers] == ["run", "run (5 of 12)"]
        results.write_text("")
        for action in ("report", "log"):
            status, out, err = verifix("smooth", action, "b/run", "--out", "other")
            assert (status, out) == (2, "")
            assert "run = b/run: has decided no input yet" in err
            assert not (place / "other").exists()

    @pytest.mark.parametrize("radius", ["-1", "nan", "inf"])
    def test_radii_of_the_table(self, verifix: Callable[..., Any], place: Path, radius: str) -> None:
        verifix(*command("certify", *SIGMA))
        status, out, err = verifix("smooth", "report", "run", "--radii", radius, "--out", "report")
        assert (status, out) == (2, "")
        assert "must be finite and at least 0" in err
        assert not (place / "report").exists()

    def test_malformed_log_names_the_line(self, verifix: Callable[..., Any], place: Path) -> None:
        (place / "bad.tsv").write_text(
            "idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t1\t1\t0.5\t1\t0:00:01\n1\t2\t3\n"
        )
        status, out, err = verifix("smooth", "report", "bad.tsv", "--out", "report")
        assert (status, out) == (2, "")
        assert err == "verifix: error: log = bad.tsv: line 3 is malformed: 3 fields between tabs, not 6\n"
        assert not (place / "report").exists()

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (["report", "nowhere", "--out", "report"], "log = nowhere: cannot be read"),
            (["report", ".", "--out", "report"], "holds no run"),
            (["log", "nowhere", "--out", "x.tsv"], "holds no run"),
        ],
    )
    def test_nothing_to_show(self, verifix: Callable[..., Any], place: Path, args: list[str], message: str) -> None:
        status, out, err = verifix("smooth", *args)
        assert (status, out) == (2, "")
        assert message in err
        assert not (place / "report").exists()
        assert not (place / "x.tsv").exists()


@pytest.mark.parametrize("action", ["certify", "predict"])
@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--sigma", "0"], "sigma = 0.0: must be"),
        (["--sigma", "-1"], "sigma = -1.0"),
        (["--sigma", "0.2", "--scale", "1"], "scale"),
        (["--noise", "pink"], "noise = pink: choose one of gaussian"),
        (["--noise", "laplace"], "scale"),
        ([*SIGMA, "--alpha", "0"], "alpha = 0.0"),
        ([*SIGMA, "--alpha", "1"], "alpha = 1.0"),
        ([*SIGMA, "--n", "5"], "n = 5"),
        ([*SIGMA, "--n", "0"], "'0' is no whole number of at least 1"),
        ([*SIGMA, "--lattice", "255"], "lattice"),
        (["--noise", "keep-or-replace", "--keep", "0.8"], "lattice = None: keep-or-replace noise needs it"),
        (["--noise", "anisotropic"], "noise = anisotropic: has a scale for each coordinate"),
        (["--noise", "ablation", "--keep", "inf"], "keep = inf: ablation keeps a whole number"),
        (["--noise", "ablation", "--keep", "nan"], "keep = nan: ablation keeps a whole number"),
        (["--noise", "ablation", "--keep", "1.5"], "keep = 1.5: ablation keeps a whole number"),
        ([*SIGMA, "--skip", "0"], "'0' is no whole number"),
        ([*SIGMA, "--weights", "nothing.pth"], "weights = nothing.pth: no such file"),
        ([*SIGMA, "--out", "networks.py"], "out = networks.py: is a file"),
    ],
)
def test_bad_input(refuses: Callable[..., None], action: str, extra: list[str], message: str) -> None:
    refuses(command(action, "--out", "fresh", *extra), message)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--rule", "u-certify"], "rule = u-certify"),
        (["--n", "6"], "at least 7 samples"),  # 0.01 ** (1 / 6) < 1 / 2
        (["--radius", "0"], "radius = 0.0"),
        (["--radius", "1", "--relative-width", "0.5"], "relative_width = 0.5: leave it out"),
        (["--radius", "1", "--rule", "t-certify-paper"], "rule = t-certify-paper"),
    ],
)
def test_bad_questions(refuses: Callable[..., None], extra: list[str], message: str) -> None:
    refuses(command("certify", *SIGMA, *extra), message)


@pytest.mark.parametrize("name", ["radius", "relative-width"])
def test_nothing_is_drawn_early_where_all_is_tried(verifix: Callable[..., Any], place: Path, name: str) -> None:
    noise = ["--noise", "splitting", "--scale", "0.5", "--lattice", "16"]
    status, out, err = verifix(*command("certify", *noise, f"--{name}", "0.5"))
    assert (status, out) == (2, "")
    assert "splitting noise on a lattice is tried completely" in err
    assert not (place / "run").exists()


def test_certificates_of_ablation_are_of_any_inputs(verifix: Callable[..., Any], place: Path) -> None:
    for noise in (["ablation", "--keep", "40"], ["keep-or-replace", "--keep", "0.8", "--lattice", "16"]):
        status, out, err = verifix(*command("certify", "--noise", *noise, "--out", noise[0]))
        assert (status, err) == (0, "")
        assert ("lattice" in out.split("certificates")[1].split("confidence")[0]) == (noise[0] != "ablation")


@pytest.mark.parametrize(
    ("model", "message"),
    [("networks:Broken", "gives NaN on all 100 noisy inputs"), ("networks:one", "gives 1 outputs")],
)
def test_bad_networks(refuses: Callable[..., None], model: str, message: str) -> None:
    refuses(command("certify", *SIGMA, model=model), message)
