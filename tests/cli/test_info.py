"""``verifix info``."""

from __future__ import annotations

import argparse
import json

import pytest
import torch

from verifix import _C
from verifix._version import __version__
from verifix.cli import info
from verifix.errors import InvalidValue
from verifix.kernels import native


def run_info(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    info.add_parser(parser.add_subparsers())
    args = parser.parse_args(["info", *arguments])
    status: int = args.run(args)
    return status


@pytest.fixture(autouse=True)
def _fresh_isa(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice of instruction set is made anew in each test."""
    monkeypatch.delenv("VERIFIX_ISA", raising=False)
    monkeypatch.setattr(native, "isa", native.isa.__wrapped__)


def test_json_has_the_facts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_info("--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["verifix"] == __version__
    assert facts["torch"]["version"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert facts["cpu"]["isas"] == _C.config()["isas"]
    assert facts["cpu"]["isa"] == _C.config()["isas"][-1]
    assert "-ffp-contract=off" in facts["cpu"]["flags"] and "fast" not in facts["cpu"]["flags"]
    assert facts["cuda"]["state"].startswith("used for" if torch.cuda.is_available() else "not used: ")


def test_table_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_info() == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    facts = info.collect()
    assert f"verifix {__version__}" in text
    assert f"instruction set {facts['cpu']['isa']}, the widest that this processor has; available: base" in text
    assert f"cuda {facts['cuda']['state']}" in text
    assert all(name in text for name in info.PACKAGES)


def test_override_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("VERIFIX_ISA", "base")
    run_info()
    assert "base, VERIFIX_ISA=base" in capsys.readouterr().out


def test_wrong_override_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERIFIX_ISA", "neon")
    with pytest.raises(InvalidValue, match="VERIFIX_ISA = neon: there is no such instruction set"):
        run_info()


def test_missing_parts_and_packages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(native, "load", lambda name: native.Library(name, None, "it is not in this installation"))
    monkeypatch.setitem(info.PACKAGES, "no-such-package", "nothing")
    assert run_info() == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "not used: it is not in this installation; plain torch takes its place" in text
    assert "missing (nothing)" in text


@pytest.mark.parametrize(
    ("change", "torch_cuda", "gpus", "wanted"),
    [
        ({"built": False, "reason": "it is not here"}, None, [], "not used: it is not here"),
        ({"driver_version": 0, "devices": 0}, "13.0", [], "not used: this machine has no CUDA driver"),
        ({"driver_version": 12080, "devices": 0}, "13.0", [], "not used: the driver (CUDA 12.8) offers no GPU"),
        ({}, None, [], "not used: this torch is built without CUDA"),
        ({}, "13.0", [], "not used: torch finds no GPU"),
        ({}, "13.0", ["H200"], "used for tensors on H200"),
    ],
)
def test_state_of_cuda(change: dict[str, object], torch_cuda: str | None, gpus: list[str], wanted: str) -> None:
    built = {"built": True, "driver_version": 13000, "devices": 1}
    assert info._cuda_state(built | change, torch_cuda, gpus) == wanted
