from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from verifix.report import biased_mnist, biased_spiral, toy

NETWORKS = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(1, 2, 4, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 10))

def smooth():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softplus())
"""
NETWORK = ("figures", "network", "networks:net", "--data", "digits", "--out", "new/pictures")


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
            assert "out = .: holds results of certify, attack, radius or detect: choose another folder" in err


class TestBiased:
    def test_spiral(self, verifix: Callable[..., Any], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        small = partial(biased_spiral.SpiralSettings, test=40, alphas=3, attacked=3, shown=(0.0, 10.0))
        monkeypatch.setattr(biased_spiral, "SpiralSettings", small)
        status, out, err = verifix("figures", "biased-spiral", "--out", "new/pictures", "--seed", 2)
        assert (status, err.splitlines()) == (0, ["radii, l2: done", "radii, linf: done", "attack: done"])
        assert "average radius" in out and "breaks 0 certificates" in " ".join(out.split())
        settings = json.loads((place / "new/pictures/settings.json").read_text())["settings"]
        assert (settings["seed"], settings["test"]) == (2, 40)
        assert {path.name for path in (place / "new/pictures").iterdir()} == {
            "settings.json", *(f"{name}.{suffix}" for name in ("regions", "radii") for suffix in ("png", "json")),
        }  # fmt: skip

    def test_one_digit(self, verifix: Callable[..., Any], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        small = partial(
            biased_mnist.OneDigitSettings, epochs=1, test=12, alphas=(0.0, 1.0), sigmas=(0.0,), noises=2, steps=2,
            radii=(0.5,), more_radii=(0.5,), linf_radii=(0.1,), attacked=2, adaptive_alphas=(0.0,), neighbours=1,
            certified=2, certified_alphas=(1.0,),
        )  # fmt: skip
        monkeypatch.setattr(biased_mnist, "OneDigitSettings", small)
        status, out, err = verifix("figures", "biased-mnist", "--data", "digits", "--out", "new/pictures")
        assert status == 0 and "training: done" in err.splitlines()
        assert "8 against the rest of digits" in out and "the attack breaks 0 of 2" in " ".join(out.split())
        assert len(list((place / "new/pictures").iterdir())) == 7

    def test_broken_certificates(
        self, verifix: Callable[..., Any], place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import numpy as np

        one = np.zeros(1)
        curves = (biased_spiral.SpiralCurves("l2", one, one, one, one, one),)
        for broken in (0, 1):
            result = biased_spiral.SpiralResult(one, curves, 1.0, broken, 0.5)
            monkeypatch.setattr(biased_spiral, "draw_biased_spiral", lambda *_, found=result: (found, []))
            assert verifix("figures", "biased-spiral", "--out", "pictures")[0] == broken

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ("digits:test", "data = digits:test: both splits are read: name none"),
            ("mnist:nowhere", "nowhere"),
            ("npz", "data = npz:train: use digits"),
        ],
    )
    def test_nothing_is_written(self, verifix: Callable[..., Any], place: Path, data: str, message: str) -> None:
        status, out, err = verifix("figures", "biased-mnist", "--data", data, "--out", "new/pictures")
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert message in err and not (place / "new").exists()


STAGES = ("standard training", "robust training", "linear programs", "cascade")


class TestNetwork:
    def test_pictures(self, verifix: Callable[..., Any], place: Path) -> None:
        status, out, err = verifix(*NETWORK, "--eps", "0.02", "--box", 0, 1, "--limit", 5, "--programs", 1)
        assert (status, err.splitlines()) == (0, ["bounds of units: done", "linear programs: done"])
        assert "networks:net on digits" in out
        names = {path.name for path in (place / "new/pictures").iterdir()}
        assert names == {
            "settings.json", *(f"{n}.{s}" for n in ("filters_0", "units", "tightness") for s in ("png", "json")),
        }  # fmt: skip
        written = json.loads((place / "new/pictures/settings.json").read_text())
        assert written["settings"]["model"] == "networks:net"
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
        status, _, err = verifix("figures", "network", "networks:smooth", *NETWORK[3:], "--eps", "0.1")
        assert (status, err.count("\n")) == (2, 1)
        assert "oftplus" in err.lower() and not (place / "new").exists()


def test_what_to_draw(verifix: Callable[..., Any]) -> None:
    status, out, err = verifix("figures")
    assert (status, out) == (2, "")
    assert "the following arguments are required: WHAT" in err
