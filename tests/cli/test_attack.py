from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.cli.killing import check_killed_run
from tests.cli.written import lines, summary_of
from verifix.attack import FGSM, PGD, MultiSteepestDescent, WorstOf, evaluate
from verifix.data import load
from verifix.sets import Ball, Union, Wasserstein

NETWORKS = """
import torch
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))

def softmax():
    return nn.Sequential(*net(), nn.Softmax(1))

class Staircase(nn.Module):
    def forward(self, x):
        return torch.round(4 * x.flatten(1)[:, 20:30])

class Holes(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, 20:30] + torch.nan

class Mean(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, 20:30] - x.mean(0).flatten()[:10] / 2

class Single(nn.Module):
    def forward(self, x):
        if len(x) == 1:
            raise ValueError("expected more than one input")
        return x.flatten(1)[:, :10]

def images():
    return nn.Conv2d(1, 10, 3)

def three():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

def two():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))

def slow():
    hidden = [layer for _ in range(4) for layer in (nn.Linear(300, 300), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 300), nn.ReLU(), *hidden, nn.Linear(300, 10))
"""


@pytest.fixture
def place(place: Path) -> Path:
    """A working folder with networks of the user's own, and weights that answer about 80 % of the digits rightly."""
    import networks  # type: ignore[import-not-found]

    torch.manual_seed(1)
    model, data = networks.net(), load("digits:train")
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(30):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(data.images), data.labels).backward()
        optimiser.step()
    save_file(model.state_dict(), place / "net.safetensors")
    return place


def attack(*args: object, model: str = "networks:net", out: str = "run") -> list[object]:
    """A command line that is right, and what a test adds to it; of options named twice the last one counts."""
    weights = ["--weights", "net.safetensors"] if model == "networks:net" else []
    data = ["--data", "digits", "--eps", "0.05", "--box", "0", "1", "--limit", "60", "--batch", "16"]
    return ["attack", model, *weights, *data, "--attack", "fgsm+pgd", "--out", out, *args]


class TestResults:
    def test_equal_to_the_library(self, verifix: Callable[..., Any], place: Path) -> None:
        status, out, err = verifix(*attack("--steps", "5", "--restarts", "2", "--save-examples", "--seed", "3"))
        assert (status, err) == (0, "")
        from verifix.models import load_model

        model, data = load_model("networks:net", "net.safetensors"), load("digits").first(60)
        ball = Ball("linf", 0.05, (0, 1))
        attacks = {"fgsm": FGSM(), "pgd": PGD(steps=5, restarts=2)}
        found = evaluate(model, data.images, data.labels, ball, attacks, seed=3, batch=16)
        written, summary = lines(place / "run"), summary_of(place / "run")
        assert [line["status"] for line in written] == found.status
        assert {"misclassified", "fooled", "robust"} == set(found.status)
        assert [line["fooled_by"] for line in written] == [(*attacks, None)[number] for number in found.fooled_by]
        assert [line["label"] for line in written] == data.labels.tolist()
        assert [line["prediction"] for line in written] == found.predictions.tolist()
        assert [line["margin"] for line in written] == pytest.approx(found.margins.tolist(), abs=1e-5)
        assert [line["forwards"] for line in written] == found.forwards.tolist()
        assert [line["backwards"] for line in written] == found.backwards.tolist()
        assert all((line["distance"] is not None) == (line["status"] == "fooled") for line in written)
        assert all(line["distance"] <= 0.05 for line in written if line["distance"] is not None)

        assert summary["n"] == 60
        assert summary["clean_accuracy"] == pytest.approx(found.clean_accuracy)
        assert summary["robust_accuracy"] == pytest.approx(found.robust_accuracy)
        assert f"{summary['robust_accuracy']:.2%}" in out
        assert summary["forwards"] == int(found.forwards.sum())
        assert summary["backwards"] == int(found.backwards.sum())
        rows = [(row["attack"], row["before"], row["after"]) for row in summary["attacks"]]
        assert rows == found.rows()
        assert summary["warnings"] == found.warnings == []
        assert summary["undecided"] == 0
        assert summary["attack"] == "fgsm+pgd"
        settings = summary["settings"]
        assert settings["attacks"]["pgd"]["steps"] == 5
        assert (settings["norm"], settings["eps"], settings["box"], settings["seed"]) == ("linf", 0.05, [0.0, 1.0], 3)

        with np.load(place / "run" / "examples.npz") as archive:
            examples, fooled = torch.from_numpy(archive["x"]), archive["fooled"].tolist()
        assert not (place / "run" / "examples").exists()
        assert ball.around(data.images).contains(examples).all()
        assert fooled == [line["status"] == "fooled" for line in written]
        answers = model(examples).argmax(1) != data.labels
        assert answers.tolist() == [line["status"] in ("fooled", "misclassified") for line in written]

    def test_examples_are_a_data_set(self, verifix: Callable[..., Any], place: Path) -> None:
        assert verifix(*attack("--save-examples")).status == 0
        again = attack("--data", "npz:run/examples.npz", "--eps", "0", "--attack", "fgsm", out="again")
        assert verifix(*again).status == 0
        assert summary_of(place / "again")["clean_accuracy"] == summary_of(place / "run")["robust_accuracy"]

    def test_settings_in_parentheses_and_for_all(self, verifix: Callable[..., Any], place: Path) -> None:
        named = 'pgd(loss="margin", steps=2)+bim+fgsm'
        assert verifix(*attack("--attack", named, "--steps", "3", "--step-size", "1/50")).status == 0
        attacks = summary_of(place / "run")["settings"]["attacks"]
        assert list(attacks) == ['pgd(loss="margin", steps=2)', "bim", "fgsm"]
        first, second, third = attacks.values()
        assert (first["steps"], first["loss"], first["step_size"]) == (2, "margin", 0.02)
        assert (second["steps"], second["step_size"]) == (3, 0.02)
        assert "steps" not in third

    @pytest.mark.parametrize("norm", ["l2", "l1"])
    def test_other_norms_and_no_box(self, verifix: Callable[..., Any], place: Path, norm: str) -> None:
        args = attack("--norm", norm, "--eps", "0.5", "--attack", "pgd", "--steps", "5")
        del args[args.index("--box") : args.index("--box") + 3]
        assert verifix(*args).status == 0
        assert summary_of(place / "run")["settings"]["box"] is None
        assert summary_of(place / "run")["robust_accuracy"] < summary_of(place / "run")["clean_accuracy"]


class TestWasserstein:
    def test_run(self, verifix: Callable[..., Any], place: Path) -> None:
        args = attack("--attack", "frank-wolfe+plan-pgd", "--steps", "5", "--eps", "0.2", "--norm", "wasserstein")
        args += ["--window", "3", "--variant", "clamp-after", "--save-examples"]
        status, out, err = verifix(*args)
        assert (status, err) == (0, "")
        assert "euclidean, 3 x 3, clamp-after within [0, 1]" in " ".join(out.replace("│", " ").split())
        data, summary = load("digits").first(60), summary_of(place / "run")
        assert summary["settings"]["window"] == 3
        assert summary["outcomes"]["fooled"] > 10
        ball = Wasserstein(0.2, window=3, variant="clamp-after").around(data.images)
        with np.load(place / "run" / "examples.npz") as archive:
            examples, fooled = torch.from_numpy(archive["x"]), torch.from_numpy(archive["fooled"])
        assert ball.contains(examples, tolerance=1e-6).all()
        distances = ball.select(fooled).distance(examples[fooled]).tolist()
        assert distances == [line["distance"] for line in lines(place / "run") if line["distance"] is not None]


UNION = ("--union", "linf:0.05,l2:0.3,l1:1.5")


class TestUnion:
    """``attack`` names an eps, which is a factor of the radii."""

    def test_equal_to_the_library(self, verifix: Callable[..., Any], place: Path) -> None:
        args = attack(*UNION, "--eps", "1", "--attack", "msd+pgd", "--steps", "5", "--save-examples")
        status, out, err = verifix(*args)
        assert (status, err) == (0, "")
        assert "union of linf 0.05, l2 0.3, l1 1.5 within [0, 1]" in " ".join(out.replace("│", " ").split())
        from verifix.models import load_model

        model, data = load_model("networks:net", "net.safetensors"), load("digits").first(60)
        union = Union(Ball("linf", 0.05, (0, 1)), Ball("l2", 0.3, (0, 1)), Ball("l1", 1.5, (0, 1)))
        attacks = {"msd": MultiSteepestDescent(steps=5), "pgd": WorstOf(attacks=(PGD(steps=5),))}
        found = evaluate(model, data.images, data.labels, union, attacks, batch=16)
        assert [line["status"] for line in lines(place / "run")] == found.status
        distances = [line["distance"] for line in lines(place / "run") if line["status"] == "fooled"]
        assert distances == pytest.approx(found.distance[found.fooled].tolist())
        assert 0 < max(distances) <= 1
        summary = summary_of(place / "run")
        assert summary["robust_accuracy"] == found.robust_accuracy
        settings = summary["settings"]
        assert (settings["norm"], settings["eps"], settings["box"]) == ("union", 1.0, [0.0, 1.0])
        assert [(ball["norm"], ball["eps"]) for ball in settings["members"]] == [
            ("linf", 0.05),
            ("l2", 0.3),
            ("l1", 1.5),
        ]
        with np.load(place / "run" / "examples.npz") as archive:
            assert union.around(data.images).contains(torch.from_numpy(archive["x"])).all()

    def test_smaller_and_resumed(self, verifix: Callable[..., Any], place: Path) -> None:
        args = attack(*UNION, "--norm", "union", "--attack", "msd", "--steps", "3")  # 0.05 of all radii
        assert verifix(*args).status == 0
        summary = summary_of(place / "run")
        assert [ball["eps"] for ball in summary["settings"]["members"]] == pytest.approx([0.0025, 0.015, 0.075])
        assert summary["robust_accuracy"] > summary["clean_accuracy"] - 0.2
        assert verifix(*args, "--resume").status == 0
        assert summary_of(place / "run") == summary
        status, _, err = verifix(*args, "--resume", "--eps", "0.1")
        assert status == 2
        assert "members was [{'norm': " in err

    def test_members_with_attacks_of_their_own(self, verifix: Callable[..., Any], place: Path) -> None:
        named = 'worst(attacks=["pgd(steps=3)", "ddn", "apgd"])'
        assert verifix(*attack(*UNION, "--eps", "1", "--attack", named, "--limit", "8", "--steps", "9")).status == 0
        of = summary_of(place / "run")["settings"]["attacks"][named]["attacks"]
        assert [(each["attack"], each["steps"]) for each in of] == [("PGD", 3), ("DDN", 9), ("APGD", 9)]

    def test_standard_and_sanity(self, verifix: Callable[..., Any], place: Path) -> None:
        args = attack(*UNION, "--eps", "1", "--attack", "standard", "--limit", "3", "--sanity")
        assert verifix(*args).status == 0
        attacks = summary_of(place / "run")["settings"]["attacks"]
        assert list(attacks) == ["apgd", "apgd-targeted", "square"]
        assert [each["restarts"] for each in attacks["apgd"]["attacks"]] == [1, 1, 5]


class TestWarnings:
    """What is wrong with a model is told on stderr and in the summary; its inputs are not counted as robust."""

    def told(self, verifix: Callable[..., Any], place: Path, *args: object, model: str) -> list[str]:
        status, _, err = verifix(*attack(*args, model=model))
        assert status == 0
        warnings = summary_of(place / "run")["warnings"]
        assert err.splitlines() == [f"verifix: warning: {text}" for text in warnings]
        return warnings

    def test_probabilities(self, verifix: Callable[..., Any], place: Path) -> None:
        (told,) = self.told(verifix, place, model="networks:softmax")
        assert told.startswith("60 of 60 answers are probabilities, not logits")

    def test_zero_gradient(self, verifix: Callable[..., Any], place: Path) -> None:
        (told,) = self.told(verifix, place, model="networks:Staircase")
        summary = summary_of(place / "run")
        assert told.startswith("every gradient of an attack was zero for")
        assert summary["robust_accuracy"] == 0
        assert summary["undecided"] == summary["outcomes"]["undecided"] > 0

    def test_nan(self, verifix: Callable[..., Any], place: Path) -> None:
        told = self.told(verifix, place, model="networks:Holes")
        assert any(text.startswith("answers or gradients were NaN or infinite for 60 of 60") for text in told)
        assert summary_of(place / "run")["undecided"] == 60
        assert {line["margin"] for line in lines(place / "run")} == {None}

    def test_batch_dependence_in_every_batch(self, verifix: Callable[..., Any], place: Path) -> None:
        told = self.told(verifix, place, "--batch", "7", model="networks:Mean")
        assert any(text.startswith("answers for 60 of 60 inputs depend on what else is in the batch") for text in told)

    def test_sanity(self, verifix: Callable[..., Any], place: Path) -> None:
        assert self.told(verifix, place, "--sanity", model="networks:net") == []
        assert not any("unbounded" in line["signs"] for line in lines(place / "run"))


# what is added to a command line that is right, and what its one line of error must say
BAD_INPUT: dict[str, tuple[list[str], str]] = {
    "eps is negative": (["--eps", "-0.1"], "eps = -0.1: must be finite and >= 0"),
    "eps is NaN": (["--eps", "nan"], "eps = nan: must be finite and >= 0"),
    "eps is infinite": (["--eps", "inf"], "eps = inf: must be finite and >= 0"),
    "eps is no number": (["--eps", "small"], "'small' is no number"),
    "norm": (["--norm", "l7"], "norm = 'l7': choose one of linf, l2, l1, wasserstein"),
    "a union of nothing": (["--norm", "union"], "norm = union: name its balls, as in --union linf:0.3,l2:1.5,l1:12"),
    "a union that cannot be read": (["--union", "linf"], "union = 'linf': needs norms and radii"),
    "a union of a negative factor": ([*UNION, "--eps", "-1"], "eps = -1.0: must be finite and >= 0"),
    "a union and a norm": ([*UNION, "--norm", "l2"], "norm = 'l2': --union says which norms: leave it out"),
    "a union and a window": ([*UNION, "--window", "5"], "window = 5: goes with --norm wasserstein only"),
    "a union and an attack of one norm": ([*UNION, "--attack", "ddn"], "DDN looks for the nearest point in l2"),
    "an attack of unions": (["--attack", "msd"], "is no union"),
    "the worst of no names": ([*UNION, "--attack", 'worst(attacks="pgd")'], "attacks is a str: pass names, as in"),
    "the worst of too few": (
        [*UNION, "--attack", 'worst(attacks=["pgd", "fgsm"])'],
        "attacks = 2 attacks: must be 3, one for each member of the union",
    ),
    "box upside down": (["--box", "1", "0"], "box"),
    "inputs outside the box": (["--box", "0", "0.5"], "60 of 60 inputs outside the box [0, 0.5]"),
    "unknown attack": (["--attack", "pdg"], "attack = 'pdg': choose one of"),
    "no attack": (["--attack", ""], "attack = '': choose one of"),
    "an attack and nothing": (["--attack", "pgd+"], "attack = '': choose one of"),
    "one attack twice": (["--attack", "pgd+pgd"], "attack = pgd+pgd: names pgd twice"),
    "settings that are no literals": (["--attack", "pgd(steps=f())"], "settings go by name"),
    "settings without names": (["--attack", "pgd(5)"], "settings go by name"),
    "a bracket is open": (["--attack", "pgd(steps=5"], "settings go by name"),
    "a setting that it has not": (["--attack", "fgsm(steps=5)"], "steps = 5: fgsm takes none: it has loss"),
    "an option that none has": (["--attack", "fgsm", "--steps", "5"], "steps = 5: fgsm takes none: it has loss"),
    "settings of standard": (["--attack", "standard(steps=5)"], "takes no settings"),
    "steps 0": (["--steps", "0"], "steps = 0: must be at least 1"),
    "steps negative": (["--steps", "-3"], "steps = -3: must be at least 1"),
    "steps no whole number": (["--steps", "2.5"], "--steps"),
    "restarts 0": (["--restarts", "0"], "restarts = 0: must be at least 1"),
    "step negative": (["--step-size", "-0.1"], "step_size = -0.1: must be a number above 0"),
    "step NaN": (["--step-size", "nan"], "step_size = nan: must be a number above 0"),
    "two steps": (
        ["--attack", "pgd(relative_step_size=0.1)", "--step-size", "0.1"],
        "relative_step_size = 0.1: give it or step_size, not both",
    ),
    "an attack of another norm": (["--norm", "l2", "--attack", "r-fgsm"], "R+FGSM steps along signs"),
    "an attack of lp balls": (
        ["--norm", "wasserstein", "--variant", "balanced-box", "--attack", "square"],
        "Square knows lp balls and boxes",
    ),
    "an attack of Wasserstein balls": (["--attack", "frank-wolfe"], "FrankWolfe moves mass"),
    "batch 0": (["--batch", "0"], "--batch: '0' is no whole number of at least 1"),
    "data is missing": (["--data", "mnist:nothing"], "nothing: no such folder"),
    "data is empty": (["--data", "npz:none.npz"], "holds no inputs"),
    "more labels than outputs": (["--data", "npz:many.npz"], "gives 10 outputs, but the data has 18 classes"),
    "labels of reals": (["--data", "npz:reals.npz"], "y is float32"),
    "weights are missing": (["--weights", "nothing.pth"], "weights = nothing.pth: no such file"),
    "device": (["--device", "gpu"], "device = gpu: cannot be used here"),
    "out is nothing": (["--out", ""], "--out: '' is no folder: name one"),
    "out is a file": (["--out", "a_file"], "out = a_file: is a file"),
    "out under a file": (["--out", "a_file/run"], "out = a_file/run: is a file, or lies under one"),
    "out where nothing can be made": (["--out", "/proc/run"], "out = /proc/run: cannot be made"),
    "window is even": (
        ["--norm", "wasserstein", "--variant", "balanced-box", "--window", "4"],
        "window = 4: must be an odd number",
    ),
    "window without need": (["--window", "5"], "window = 5: goes with --norm wasserstein only"),
    "standard on a Wasserstein ball": (
        ["--norm", "wasserstein", "--variant", "balanced-box", "--attack", "standard"],
        "norm = wasserstein: standard is for linf, l2, l1",
    ),
    "image without mass": (
        ["--norm", "wasserstein", "--variant", "balanced-box", "--data", "npz:black.npz"],
        "x = image 3 has no mass",
    ),
}
BAD_MODEL = {
    "networks:images": "must give (batch, classes)",
    "networks:three": "gives 3 outputs, but the data has 10 classes",
    "networks:Single": "fails on inputs of shape (1, 1, 8, 8): ValueError: expected more than one input",
    "networks:nothing": "networks has no 'nothing'",
}


class TestBadInput:
    """One line, status 2, and nothing is written; to a run that is there already neither."""

    @pytest.fixture(autouse=True)
    def bad_files(self, place: Path) -> None:
        x, y = load("digits").first(9).images.numpy(), np.arange(9)
        np.savez(place / "many.npz", x=x, y=y + 9)
        np.savez(place / "none.npz", x=x[:0], y=y[:0])
        np.savez(place / "reals.npz", x=x, y=y.astype(np.float32))
        np.savez(place / "black.npz", x=x * (y != 3)[:, None, None, None].astype(np.float32), y=y)
        (place / "a_file").write_text("mine")

    @pytest.mark.parametrize(("extra", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
    def test_input(self, refuses: Callable[..., None], extra: list[str], message: str) -> None:
        refuses(attack(*extra, out=extra[1] if extra[0] == "--out" else "fresh"), message)

    @pytest.mark.parametrize(("model", "message"), BAD_MODEL.items(), ids=BAD_MODEL)
    def test_model(self, refuses: Callable[..., None], model: str, message: str) -> None:
        refuses(attack(model=model, out="fresh"), message)

    def test_no_radius(self, refuses: Callable[..., None]) -> None:
        args = attack(out="fresh")
        del args[args.index("--eps") : args.index("--eps") + 2]
        refuses(args, "eps = None: name the radius, such as --eps 0.1")

    def test_loss_for_more_classes(self, refuses: Callable[..., None], place: Path) -> None:
        """What an attack refuses only when it runs is refused before anything is written all the same."""
        data = load("digits").first(9)
        np.savez(place / "two.npz", x=data.images.numpy(), y=data.labels.numpy() % 2)
        args = attack("--data", "npz:two.npz", "--attack", 'fgsm+pgd(loss="dlr")', model="networks:two", out="fresh")
        refuses(args, "loss = dlr: needs at least 3 classes, the network has 2")

    def test_run_that_is_there(self, verifix: Callable[..., Any], refuses: Callable[..., None]) -> None:
        assert verifix(*attack("--steps", "2")).status == 0
        refuses(attack("--steps", "2"), "holds 60 results already: add --resume")
        resume = ["--steps", "2", "--resume"]
        refuses(attack(*resume, "--eps", "0.1"), "(eps was 0.05, now 0.1)")
        refuses(attack(*resume, "--attack", "pgd"), "attack was fgsm+pgd, now pgd")
        refuses(attack("--resume", "--steps", "3"), "attacks was ")
        refuses(attack(*resume, "--seed", "1"), "(seed was 0, now 1)")
        refuses(attack(*resume, "--save-examples"), "(save_examples was False, now True)")
        refuses(attack(*resume, "--sanity"), "(sanity was False, now True)")
        certify = ["certify", "networks:net", "--data", "digits", "--eps", "0.05", "--out", "run", "--resume"]
        refuses(certify, "attack was fgsm+pgd, now absent")
        assert verifix(*attack(*resume, "--threads", "1")).status == 0


COUNT = 64
LONG = ("attack", "networks:slow", "--data", "digits", "--eps", "0.1", "--box", "0", "1", "--limit", str(COUNT))
LONG += ("--batch", "8", "--attack", "fgsm+pgd", "--steps", "12", "--restarts", "2", "--threads", "1")
LONG += ("--save-examples",)


class TestKilled:
    def test_resumed_run_has_the_same_bytes(self, start: Callable[..., subprocess.Popen[str]], place: Path) -> None:
        assert check_killed_run(start, place, LONG, most=2) >= 1
        whole, run = place / "whole", place / "killed"
        assert [line["index"] for line in lines(run)] == list(range(COUNT))
        assert (run / "examples.npz").read_bytes() == (whole / "examples.npz").read_bytes()
        assert not (run / "examples").exists()

    def test_killed_before_the_examples_are_one_file(self, verifix: Callable[..., Any], place: Path) -> None:
        assert verifix(*attack("--save-examples")).status == 0
        whole = (place / "run" / "examples.npz").read_bytes()
        (place / "run" / "summary.json").unlink()
        assert verifix(*attack("--save-examples", "--resume")).status == 0
        assert (place / "run" / "examples.npz").read_bytes() == whole
        (place / "run" / "examples.npz").unlink()
        status, _, err = verifix(*attack("--save-examples", "--resume"))
        assert status == 2
        assert "examples/000000000.npz: is missing, so examples.npz cannot be written" in err
