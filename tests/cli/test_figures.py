from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from verifix.report import toy

NETWORKS = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(1, 2, 4, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 10))

def smooth():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softplus())
"""
NETWORK = ("figures", "network", "pictured:net", "--data", "digits", "--out", "new/pictures")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pictured.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    sys.modules.pop("pictured", None)
    return tmp_path


class TestToy:
    def test_pictures(self, verifix: Callable[..., Any], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        small = partial(
            toy.ToySettings, points=3, widths=(2, 10, 2), steps=5, warm_up=2, random_widths=(2, 10, 2), radii=(0.1,),
            random_networks=1, parts=(1.0,), cascade_widths=(2, 10, 2), cascade_steps=4,
        )  # fmt: skip
        monkeypatch.setattr(toy, "ToySettings", small)
        status, out, err = verifix("figures", "toy", "--out", "new/pictures", "--seed", 3)
        assert (status, err.splitlines()) == (0, [f"{name}: done" for name in STAGES])
        assert "robust error at most" in out and "tightness" in out
        assert "two stages" in out and "points closer together" in " ".join(out.split())
        settings = json.loads((place / "new/pictures/settings.json").read_text())["settings"]
        assert (settings["seed"], settings["points"], settings["widths"]) == (3, 3, [2, 10, 2])
        assert len(list((place / "new/pictures").iterdir())) == 11

    def test_a_broken_certificate_is_a_status_of_its_own(
        self, verifix: Callable[..., Any], place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import torch

        from verifix.report import toy_figures

        one = torch.tensor([True])
        for first, second in ((0, 0), (1, 0), (0, 1)):
            found = toy_figures.ToyResult("robust training", one, one, first)
            cascade = toy_figures.ToyCascade(torch.tensor([0]), one, one, second)
            monkeypatch.setattr(toy_figures, "draw_toy", lambda *_, drawn=([found], cascade, []): drawn)
            assert verifix("figures", "toy", "--out", "pictures")[0] == first + second

    def test_out_is_a_file(self, verifix: Callable[..., Any], place: Path) -> None:
        (place / "taken").write_text("")
        status, out, err = verifix("figures", "toy", "--out", "taken/pictures")
        assert (status, out) == (2, "")
        assert err == "verifix: error: out = taken/pictures: is a file, or lies under one: name a folder\n"

    def test_out_holds_a_run(self, verifix: Callable[..., Any], place: Path) -> None:
        """Whose settings.json must stay."""
        (place / "results.jsonl").write_text("")
        for what in (("figures", "toy"), (*NETWORK[:-2], "--eps", "0.1")):
            status, out, err = verifix(*what, "--out", ".")
            assert (status, out, err.count("\n")) == (2, "", 1)
            assert "out = .: holds results of certify, radius or detect: choose another folder" in err


STAGES = ("standard training", "robust training", "linear programs", "cascade")


class TestNetwork:
    def test_pictures(self, verifix: Callable[..., Any], place: Path) -> None:
        status, out, err = verifix(*NETWORK, "--eps", "0.02", "--box", 0, 1, "--limit", 5, "--programs", 1)
        assert (status, err.splitlines()) == (0, ["bounds of units: done", "linear programs: done"])
        assert "pictured:net on digits" in out
        names = {path.name for path in (place / "new/pictures").iterdir()}
        assert names == {
            "settings.json", *(f"{n}.{s}" for n in ("filters_0", "units", "tightness") for s in ("png", "json")),
        }  # fmt: skip
        written = json.loads((place / "new/pictures/settings.json").read_text())
        assert written["settings"]["model"] == "pictured:net"
        assert (written["settings"]["inputs"], written["settings"]["programs"]) == (5, 1)
        assert written["sources"]["data"] == "digits"

    def test_left_out(self, verifix: Callable[..., Any], place: Path) -> None:
        status, out, _ = verifix(*NETWORK, "--eps", "0.02", "--norm", "l2", "--limit", 2)
        assert status == 0
        assert "no tightness" in out and "the linear program takes l_inf balls" in " ".join(out.split())

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--eps", "-1"), "eps = -1.0: must be finite and >= 0"),
            (("--eps", "0.1", "--method", "cap+ibp"), "method = cap+ibp: name one here"),
            (("--eps", "0.1", "--box", "0", "0.5"), "outside the box"),
            (("--eps", "0.1", "--weights", "missing.pth"), "missing.pth"),
        ],
    )
    def test_nothing_is_written(
        self, verifix: Callable[..., Any], place: Path, arguments: tuple[str, ...], message: str
    ) -> None:
        before = sorted(path.name for path in place.iterdir())
        status, out, err = verifix(*NETWORK, *arguments)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert message in err
        assert [name for name in sorted(path.name for path in place.iterdir()) if name != "__pycache__"] == before

    def test_unsupported(self, verifix: Callable[..., Any], place: Path) -> None:
        status, _, err = verifix("figures", "network", "pictured:smooth", *NETWORK[3:], "--eps", "0.1")
        assert (status, err.count("\n")) == (2, 1)
        assert "oftplus" in err.lower() and not (place / "new").exists()


def test_what_to_draw(verifix: Callable[..., Any]) -> None:
    status, out, err = verifix("figures")
    assert (status, out) == (2, "")
    assert "the following arguments are required: WHAT" in err
