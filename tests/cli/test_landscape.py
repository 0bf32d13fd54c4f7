from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_train import NETWORKS, train

__all__ = ["NETWORKS"]


def measured(verifix: Callable[..., Any], *args: object, out: str) -> None:
    done = verifix(*train("--landscape-every", "4", "--landscape-points", "2", *args, out=out))
    assert (done.status, done.err) == (0, "")


class TestTrain:
    def test_says_what_measuring_has_cost(self, verifix: Callable[..., Any], place: Path) -> None:
        done = verifix(*train("--landscape-every", "6", "--landscape-points", "3", "--landscape-fresh"))
        assert done.status == 0
        said = " ".join(done.out.replace("│", " ").split())
        assert "run/landscape.jsonl: 3 measurements" in said  # of 15 steps: 1, 7, 13
        assert "s of logging beside" in said
        lines = [json.loads(line) for line in (place / "run" / "landscape.jsonl").read_text().splitlines()]
        assert [(line["epoch"], line["step"]) for line in lines] == [(1, 1), (2, 2), (3, 3)]
        assert len(lines[0]["multiples"]) == 5
        assert lines[0]["fresh"]["target"]["loss"] == lines[0]["target"]["loss"]
        settings = json.loads((place / "run" / "settings.json").read_text())["settings"]
        assert (settings["landscape_every"], settings["landscape_points"]) == (6, 3)

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (("--landscape-every", "5", "--stages", "2"), "landscape-every = 5: goes with one network"),
            (("--landscape-every", "5", "--method", "pgd"), "method pgd trains at points that differ with every draw"),
            (("--landscape-points", "5"), "landscape_points = 5: goes with --landscape-every"),
            (("--landscape-every", "0"), "no whole number of at least 1"),
            (("--landscape-every", "5", "--landscape-points", "1"), "landscape_points = 1: must be at least 2"),
        ],
    )
    def test_refusals(self, args: tuple[str, ...], message: str, refuses: Callable[..., None]) -> None:
        refuses(train(*args), message)


class TestLandscape:
    def test_pictures_of_two_runs(self, verifix: Callable[..., Any], place: Path) -> None:
        measured(verifix, "--mean", "0.3", "--std", "0.4", out="a")
        measured(verifix, "--method", "ibp", out="b")
        done = verifix("landscape", "a", "b", "--out", "new/pictures", "--limit", "20", "--methods", "crown-ibp,ibp")
        assert done.status == 0
        assert done.err.splitlines() == ["tightness, crown-ibp: done", "tightness, ibp: done"]
        names = ["landscape", "landscape_target", "slopes", "tightness"]
        for name in names:
            assert f"new/pictures/{name}.png" in done.out
        assert "loss variation" in done.out
        found = {path.name for path in (place / "new/pictures").iterdir()}
        assert found == {"settings.json", *(f"{name}.{kind}" for name in names for kind in ("png", "json"))}
        settings = json.loads((place / "new/pictures/settings.json").read_text())["settings"]
        assert (settings["runs"], settings["methods"], settings["limit"]) == (["a", "b"], ["crown-ibp", "ibp"], 20)
        tight = json.loads((place / "new/pictures/tightness.json").read_text())["networks"]
        assert [(one["name"], one["eps"]) for one in tight] == [("crown-ibp", 0.05), ("ibp", 0.05)]

    def test_one_picture_of_other_data(self, verifix: Callable[..., Any], place: Path) -> None:
        assert verifix(*train()).status == 0  # a run without a landscape log
        pictures = ("--pictures", "tightness", "--methods", "ibp", "--limit", "5")
        done = verifix("landscape", "run", "--out", "new", *pictures, "--data", "digits:train", "--eps", "2/255")
        assert done.status == 0
        tight = json.loads((place / "new/tightness.json").read_text())["networks"]
        assert tight[0]["eps"] == pytest.approx(2 / 255)

    def test_refusals(self, verifix: Callable[..., Any], place: Path) -> None:
        measured(verifix, out="a")
        assert verifix(*train(out="bare")).status == 0
        (place / "other").mkdir()
        (place / "other" / "settings.json").write_text('{"settings": {"method": "cap"}}')
        for args, message in (
            (("nowhere",), "run = nowhere: is no training run, it has no settings.json"),
            (("a", "other"), "run = other: holds a run of another kind"),
            (("a", "bare"), "run = bare: has no landscape log: train it with --landscape-every N"),
            (("a", "--pictures", "figures"), "choose some of landscape, slopes, tightness"),
            (("a", "--pictures", "tightness", "--methods", "fast"), "method = 'fast'"),
            (("a", "--pictures", "tightness", "--data", "mnist:nowhere"), "nowhere"),
        ):
            done = verifix("landscape", *args, "--out", "new")
            assert done.status == 2
            assert message in done.err
            assert done.err.count("\n") == 1
            assert not (place / "new").exists()
        done = verifix("landscape", "a", "--out", "a")
        assert done.status == 2
        assert "holds a training run: choose another folder" in done.err

    def test_a_run_without_its_data_leaves_one_picture_out(self, verifix: Callable[..., Any], place: Path) -> None:
        measured(verifix, out="a")
        path = place / "a" / "settings.json"
        content = json.loads(path.read_text())
        content["sources"]["data"] = "mnist:moved"
        path.write_text(json.dumps(content))
        done = verifix("landscape", "a", "--out", "new")
        assert done.status == 0
        assert "no tightness: " in done.out
        assert (place / "new" / "slopes.png").exists()
        assert not (place / "new" / "tightness.png").exists()
