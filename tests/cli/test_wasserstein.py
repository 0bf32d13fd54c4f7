"""``--norm wasserstein`` of certify and radius."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

NETWORK = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 10))
"""


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A model of the user's own on the digits, certified for some of them at a small radius."""
    (tmp_path / "wasserstein_network.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    model = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 10))
    torch.manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    save_file(model.state_dict(), tmp_path / "net.safetensors")
    return ["wasserstein_network:net", "--weights", "net.safetensors", "--data", "digits", "--limit", 8]


def test_certify(arguments: list[object], verifix: Callable[..., tuple[int, str, str]]) -> None:
    common = [*arguments, "--norm", "wasserstein", "--method", "crown", "--threads", 1]
    status, out, err = verifix("certify", *common, "--eps", 0, "--out", "points")
    assert (status, err) == (0, "")
    status, out, err = verifix("certify", *common, "--eps", 0.01, "--out", "run", "--window", 3, "--ground", "l1")
    assert (status, err) == (0, "")
    assert "wasserstein ball of radius 0.01 (normalised mass), l1, 3 x 3, balanced" in " ".join(
        out.replace("│", " ").split()
    )
    written = json.loads(Path("run/settings.json").read_text())["settings"]
    assert written["norm"] == "wasserstein"
    names = ("ground", "window", "mass", "variant", "transport", "box")
    assert [written[name] for name in names] == ["l1", 3, "normalised", "balanced", "local", None]
    verified = {
        run: json.loads(Path(run, "summary.json").read_text())["verdicts"]["verified"] for run in ("points", "run")
    }
    assert verified["points"] >= verified["run"]
    status, out, err = verifix(
        "certify", *common, "--eps", 0.01, "--out", "run", "--window", 5, "--ground", "l1", "--resume"
    )
    assert status == 2
    assert "window" in err


@pytest.mark.parametrize(
    "extra",
    [
        ["--variant", "balanced-box"],
        ["--variant", "clamp-after", "--box", 0, 2, "--mass", "raw"],
        ["--transport", "flow"],
        ["--ground", "squared-euclidean"],
    ],
)
def test_variants(extra: list[object], arguments: list[object], verifix: Callable[..., tuple[int, str, str]]) -> None:
    common = ["--norm", "wasserstein", "--method", "ibp", "--out", "run", "--threads", 1, "--eps", 0.001]
    status, _, err = verifix("certify", *arguments, *common, *extra)
    assert (status, err) == (0, "")
    written = json.loads(Path("run/settings.json").read_text())["settings"]
    if "flow" in extra:
        assert (written["ground"], written["window"]) == ("l1", None)
    if "--box" in extra:
        assert written["box"] == [0.0, 2.0]


def test_radius(arguments: list[object], verifix: Callable[..., tuple[int, str, str]]) -> None:
    common = ["--norm", "wasserstein", "--window", 3, "--threads", 1, "--tolerance", 0.1]
    status, _, err = verifix("radius", *arguments, *common, "--out", "radii", "--limit", 3)
    assert (status, err) == (0, "")
    records = [json.loads(line) for line in Path("radii/results.jsonl").read_text().splitlines()]
    assert len(records) == 3
    assert all(record["eps"] > 0 for record in records if record["verdict"] == "verified")
    assert Path("radii/radius.png").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--window", 3], "window = 3: goes with --norm wasserstein only"),
        (["--norm", "l2", "--mass", "raw"], "mass = raw: goes with --norm wasserstein only"),
        (["--norm", "wasserstein", "--window", 4], "window = 4: must be an odd number"),
        (["--norm", "wasserstein", "--ground", "l2"], "ground = 'l2': choose one of"),
        (["--norm", "wasserstein", "--variant", "box"], "variant = 'box': choose one of"),
        (["--norm", "wasserstein", "--box", 0, 1], "variant balanced knows no box"),
        (["--norm", "wasserstein", "--transport", "flow", "--window", 5], "leave --window out"),
        (["--norm", "wasserstein", "--eps", -1], "eps = -1.0"),
    ],
)
def test_bad_input(
    extra: list[object], message: str, arguments: list[object], verifix: Callable[..., tuple[int, str, str]]
) -> None:
    status, out, err = verifix("certify", *arguments, "--eps", 0.01, "--out", "run", *extra)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not Path("run").exists()
