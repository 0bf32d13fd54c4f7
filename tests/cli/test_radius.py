"""``verifix radius`` and ``verifix detect``: what they write, what they print, what they refuse."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import verifix as vx
from tests.cli.written import lines, summary_of
from verifix.data import load
from verifix.text import rounded_down

NETWORKS = """
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

def constant():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.zeros_(model[1].weight)
    nn.init.ones_(model[1].bias)
    model[1].bias.data[3] = 2.0
    return model
"""


@pytest.fixture
def place(place: Path) -> Path:
    """A working folder with a network of the user's own, a little trained."""
    import networks  # type: ignore[import-not-found]

    torch.manual_seed(0)
    model: nn.Module = networks.net()
    data, optimizer = load("digits:train"), torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(data.images[:400]), data.labels[:400]).backward()
        optimizer.step()
    save_file(model.state_dict(), place / "net.safetensors")
    return place


def command(name: str, *args: object, model: str = "networks:net") -> list[object]:
    weights = ["--weights", "net.safetensors"] if model == "networks:net" else []
    eps = ["--eps", "0.02"] if name == "detect" else []
    return [name, model, *weights, "--data", "digits", *eps, "--limit", "30", "--batch", "12", "--out", "run", *args]


class TestRadius:
    def test_results_table_and_picture(self, verifix: Callable[..., Any], place: Path) -> None:
        status, out, err = verifix(*command("radius", "--norm", "l2", "--method", "crown+ibp", "--box", "0", "1"))
        assert (status, err) == (0, "")
        from networks import net

        model, data = net(), load("digits").first(30)
        from verifix.weights import fit_weights, read_weights

        fit_weights(model, read_weights("net.safetensors"), "net.safetensors")
        written = lines(place / "run")
        assert [line["index"] for line in written] == list(range(30))
        assert [line["prediction"] for line in written] == model(data.images).argmax(1).tolist()
        radii = torch.tensor([line["eps"] for line in written], dtype=torch.float64)
        ball = vx.Ball("l2", radii, (0, 1))
        assert vx.certify(model, data.images, model(data.images).argmax(1), ball, "crown+ibp").verified.all()
        summary = summary_of(place / "run")
        assert summary["eps"]["median"] == sorted(radii.tolist())[14]
        assert summary["settings"]["box"] == [0.0, 1.0]
        assert f"{summary['evaluations']['mean']:.2f} per input" in out
        assert rounded_down(summary["eps"]["median"]) in out
        picture = (place / "run" / "radius.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert min(struct.unpack(">II", picture[16:24])) > 400
        assert sorted(path.name for path in (place / "run").iterdir()) == [
            "radius.png", "results.jsonl", "sessions.jsonl", "settings.json", "summary.json", "timings.jsonl",
        ]  # fmt: skip

    def test_certified_everywhere(self, verifix: Callable[..., Any], place: Path) -> None:
        status, out, _ = verifix(*command("radius", "--max-eps", "1/2", model="networks:constant"))
        assert status == 0
        assert "certified everywhere" in out
        assert {(line["eps"], line["uncertified"]) for line in lines(place / "run")} == {(0.5, None)}

    def test_resumed(self, verifix: Callable[..., Any], place: Path) -> None:
        assert verifix(*command("radius")).status == 0
        before = (place / "run" / "results.jsonl").read_bytes()
        assert verifix(*command("radius", "--resume")).status == 0
        assert (place / "run" / "results.jsonl").read_bytes() == before
        assert "add --resume" in verifix(*command("radius")).err
        assert "tolerance was 1e-05, now 0.0001" in verifix(*command("radius", "--resume", "--tolerance", "1e-4")).err


class TestDetect:
    def test_results_and_table(self, verifix: Callable[..., Any], place: Path) -> None:
        status, out, err = verifix(*command("detect"))
        assert (status, err) == (0, "")
        summary = summary_of(place / "run")
        flagged = [line["verdict"] != "verified" for line in lines(place / "run")]
        assert 0 < sum(flagged) == summary["flagged"] < 30
        assert f"{summary['flagged']} ({summary['flagged_fraction']:.2%})" in out
        assert f"{summary['accuracy_of_unflagged']:.2%}" in out

    def test_status_is_zero_where_all_are_flagged(self, verifix: Callable[..., Any], place: Path) -> None:
        status, out, _ = verifix(*command("detect", "--eps", "0.9"))
        assert status == 0
        assert "30 (100.00%)" in out


@pytest.mark.parametrize("name", ["radius", "detect"])
@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--data", "mnist:nothing"], "nothing: no such folder"),
        (["--weights", "nothing.pth"], "weights = nothing.pth: no such file"),
        (["--norm", "l7"], "choose one of linf, l2, l1"),
        (["--method", "magic"], "choose one of ibp, crown-ibp, cap-ibp, tight-smooth, cap, crown"),
        (["--box", "0", "0.5"], "inputs outside the box"),
        (["--memory", "1"], "memory = 1: this network needs at least"),
        (["--out", "networks.py"], "out = networks.py: is a file"),
    ],
)
def test_bad_input(refuses: Callable[..., None], name: str, extra: list[str], message: str) -> None:
    refuses(command(name, "--out", "fresh", *extra), message)


@pytest.mark.parametrize(
    ("name", "extra", "message"),
    [
        ("radius", ["--tolerance", "0"], "tolerance = 0.0: must be between 1e-9 and 1"),
        ("radius", ["--max-eps", "0"], "max_eps = 0.0: must be finite and above 0"),
        ("radius", ["--max-eps", "x"], "'x' is no number"),
        ("detect", ["--eps", "-1"], "eps = -1.0: must be finite and >= 0"),
    ],
)
def test_bad_numbers(verifix: Callable[..., Any], place: Path, name: str, extra: list[str], message: str) -> None:
    status, out, err = verifix(*command(name, "--out", "fresh", *extra))
    assert (status, out) == (2, "")
    assert message in err
    assert not (place / "fresh").exists()
