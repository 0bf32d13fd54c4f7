"""The README works as written."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from verifix.cli.main import main
from verifix.data import load
from verifix.zoo import digits_small

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def section(title: str) -> str:
    return re.search(rf"## {title}\n(.*?)\n## ", README, re.DOTALL)[1]  # type: ignore[index]


def blocks(text: str, language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_transcript_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = blocks(section("Train a network that can be certified"))[0].splitlines()
    assert len(lines) >= 7
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "verifix"
        assert main(arguments) == 0, line
    summaries = {name: json.loads((tmp_path / name / "summary.json").read_text())
                 for name in ("certified", "detected", "radii", "cascade-certified")}  # fmt: skip
    assert summaries["certified"]["certified_error"] < 0.25
    assert summaries["certified"]["clean_error"] < 0.125
    assert summaries["cascade-certified"]["stages"][1]["entered"] > 0
    assert (tmp_path / "run/curves.png").exists()
    assert (tmp_path / "radii/radius.png").exists()
    assert list((tmp_path / "pictures").glob("*.png"))


@pytest.mark.slow
def test_the_python_of_training() -> None:
    (code,) = blocks(section("Train a network that can be certified"), "python")
    names: dict[str, object] = {}
    exec(code, names)
    assert names["training"].best.validation.robust_error < 0.25  # type: ignore[attr-defined]


@pytest.mark.slow
def test_the_comparison_and_its_landscape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = section("Train a network that can be certified")
    for line in re.findall(r"^verifix (compare|landscape) (.*)$", text, re.MULTILINE):
        assert main([line[0], *shlex.split(line[1])]) == 0, line
    cells = json.loads((tmp_path / "compared/summary.json").read_text())["cells"]
    assert [cell["status"] for cell in cells] == ["done"] * 3
    assert min(cell["verified_error"] for cell in cells) < 0.5
    assert (tmp_path / "landscape/tightness.png").exists()


@pytest.mark.slow
def test_the_transcript_of_attacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train = blocks(section("Train a network that can be certified"))[0].splitlines()[0]
    lines = blocks(section("Attack, to see how far certificates are from the truth"))[0].splitlines()
    assert len(lines) == 4
    for line in [train, *lines]:
        program, *arguments = shlex.split(line)
        assert program == "verifix"
        assert main(arguments) == 0, line
    attacked, worst, moved, unmoved = (
        json.loads((tmp_path / name / "summary.json").read_text()) for name in ("attacked", "worst", "moved", "unmoved")
    )
    assert 0.5 < attacked["robust_accuracy"] <= attacked["clean_accuracy"]
    assert worst["n"] == moved["n"] == 100 and moved["robust_accuracy"] < moved["clean_accuracy"]
    assert unmoved["norm"] == "wasserstein"


@pytest.mark.slow
def test_the_python_of_attacks() -> None:
    (code,) = blocks(section("Attack, to see how far certificates are from the truth"), "python")
    data = load("digits").first(20)
    x, y = data.images, data.labels
    names: dict[str, object] = {"model": digits_small(), "x": x, "y": y, "g": x, "v": x + 0.1, "z": x}
    exec(code, names)
    assert (names["ball"].distance(x, x) == 0).all()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_the_transcript_of_smoothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = blocks(section("Smooth a network that nothing else can certify"))[0].splitlines()
    assert len(lines) == 5
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "verifix"
        assert main(arguments) == 0, line
    fixed, early = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("smoothed", "decided"))
    assert fixed["clean_accuracy"] > 0.9
    assert fixed["float_sound"] is True
    assert early["samples"] < fixed["samples"] * 10 / 2  # it may draw 100,000 for each input
    assert (tmp_path / "curves/certified_accuracy.png").exists()
    assert len((tmp_path / "smoothed.tsv").read_text().splitlines()) == 101


@pytest.mark.slow
def test_the_python_of_smoothing() -> None:
    (code,) = blocks(section("Smooth a network that nothing else can certify"), "python")
    names: dict[str, object] = {"model": digits_small(), "x": (load("digits").images[:1] * 255).round() / 255}
    exec(code.replace("n=100_000", "n=2_000"), names)
    assert names["found"].float_sound  # type: ignore[attr-defined]


def test_every_command_is_mentioned() -> None:
    from verifix.cli.main import COMMANDS

    for command in COMMANDS:
        assert f"`verifix {command}" in README or f"verifix {command} " in README, command
