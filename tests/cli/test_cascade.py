"""``verifix certify`` on cascades."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import verifix as vx
from tests.cli.written import files, lines, summary_of
from verifix.cascade_file import Stage, cascade_content, read_cascade
from verifix.certify import Cascade
from verifix.data import load
from verifix.errors import InvalidValue

NETWORKS = """
from torch import nn

def net(width=20):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

def three():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
"""


@pytest.fixture
def place(place: Path) -> Path:
    """A working folder with a cascade of three stages, as a ``.pth`` file and as a cascade file."""
    data, states = load("digits:train"), []
    x, y = data.images[:300], data.labels[:300]
    for number in range(3):
        model = trained(x, y, number)
        states.append(model.state_dict())
        (place / "parts" / f"stage-{number}").mkdir(parents=True)
        save_file(states[-1], place / "parts" / f"stage-{number}" / "best.safetensors")
    torch.save({"state_dict": states, "err": 0.5}, place / "cascade.pth")
    stages = [Stage("networks:net", f"stage-{number}/best.safetensors") for number in range(3)]
    (place / "parts" / "cascade.json").write_text(json.dumps(cascade_content(stages, {"eps": 0.02})))
    return place


def trained(x: torch.Tensor, y: torch.Tensor, seed: int) -> nn.Module:
    import networks  # type: ignore[import-not-found]

    torch.manual_seed(seed)
    model: nn.Module = networks.net()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(15):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


PTH = ("networks:net", "--weights", "cascade.pth")
FILE = ("parts/cascade.json",)


def certify(model: tuple[str, ...], *args: object, out: str = "run", eps: str = "0.02") -> list[object]:
    """A command line that is right, and what a test adds to it."""
    return ["certify", *model, "--data", "digits", "--eps", eps, "--box", "0", "1", "--limit", "90",
            "--batch", "16", "--out", out, *args]  # fmt: skip


def library(place: Path) -> Cascade:
    from networks import net

    stages = []
    for state in torch.load(place / "cascade.pth")["state_dict"]:
        stages.append(net())
        stages[-1].load_state_dict(state)
    return Cascade(stages, vx.Ball("linf", 0.02, (0, 1)), "cap")


class TestResults:
    @pytest.mark.parametrize("model", [PTH, FILE], ids=["pth", "file"])
    def test_equal_to_the_library(self, verifix: Callable[..., Any], place: Path, model: tuple[str, ...]) -> None:
        status, out, err = verifix(*certify(model))
        assert (status, err) == (0, "")
        data, cascade = load("digits").first(90), library(place)
        result = cascade.certify(data.images, data.labels)
        written = lines(place / "run")
        assert list(written[0]) == ["index", "label", "prediction", "verdict", "margin", "stage"]
        assert [line["verdict"] for line in written] == result.verdicts.tolist()
        assert [-1 if line["stage"] is None else line["stage"] for line in written] == result.stages.tolist()
        assert [line["prediction"] for line in written] == result.predictions.tolist()
        assert [line["margin"] for line in written] == pytest.approx(result.margin.tolist(), rel=1e-4, abs=1e-6)
        assert len(set(result.stages.tolist())) == 4  # every stage decides some, and some are left
        assert set(result.verdicts) == {"verified", "falsified", "unknown"}

        summary = summary_of(place / "run")
        entered = 90
        for number, stage in enumerate(summary["stages"]):
            mine = result.stages == number
            wrong = int((result.predictions[mine] != data.labels[mine]).sum())
            left = entered - int(mine.sum())
            assert stage == {
                "entered": entered,
                "certified": int(mine.sum()),
                "certified_wrong": wrong,
                "left": left,
            }
            entered = left
        right = (result.stages >= 0) & (result.predictions == data.labels)
        assert summary["stagewise_error"] == (90 - int(right.sum())) / 90
        assert summary["certified_error"] == (90 - int(result.verified.sum())) / 90
        assert summary["abstained"] == int((result.labels < 0).sum()) / 90
        assert summary["clean_error"] == int((result.predictions != data.labels).sum()) / 90
        assert summary["stagewise_error"] < summary["certified_error"]
        assert summary["settings"]["stages"] == 3
        shown = " ".join(out.split())
        assert f"{summary['stagewise_error']:.2%}" in shown
        assert f"stage 1 │ {summary['stages'][1]['entered']} entered" in shown

    def test_a_stage_alone(self, verifix: Callable[..., Any], place: Path) -> None:
        assert verifix(*certify(("networks:net", "--weights", "cascade.pth#1"))).status == 0
        assert "stage" not in lines(place / "run")[0]
        assert "stages" not in summary_of(place / "run")

    def test_normalisation_of_every_stage(self, verifix: Callable[..., Any], place: Path) -> None:
        content = json.loads((place / "parts" / "cascade.json").read_text())
        for stage in content["stages"]:
            stage |= {"mean": [0.25], "std": [0.5]}
        (place / "parts" / "other.json").write_text(json.dumps(content))
        assert verifix(*certify(("parts/other.json",), out="a")).status == 0
        assert verifix(*certify((*PTH, "--mean", "0.25", "--std", "0.5"), out="b")).status == 0
        assert lines(place / "a") == lines(place / "b")


class TestResume:
    @pytest.mark.parametrize("cut", [0, 1, 700, 3000])
    def test_same_bytes(self, verifix: Callable[..., Any], place: Path, cut: int) -> None:
        assert verifix(*certify(FILE)).status == 0
        before = files(place / "run")
        (place / "run" / "results.jsonl").write_bytes(before["results.jsonl"][:cut])
        assert verifix(*certify(FILE, "--resume")).status == 0
        after = files(place / "run")
        assert after["results.jsonl"] == before["results.jsonl"]
        one, other = json.loads(before["summary.json"]), json.loads(after["summary.json"])
        assert {**one, "seconds": 0} == {**other, "seconds": 0}

    def test_other_settings(self, verifix: Callable[..., Any], place: Path) -> None:
        assert verifix(*certify(PTH)).status == 0
        before = files(place / "run")
        for model, message in (
            (("networks:net", "--weights", "cascade.pth#1"), "stages was 3, now absent"),
            (("networks:net",), "stages was 3, now absent"),
            (FILE, "model was networks:net, now parts/cascade.json"),
        ):
            status, _, err = verifix(*certify(model, "--resume"))
            assert status == 2
            assert message in err
            assert files(place / "run") == before


def bad_files(place: Path) -> None:
    good = json.loads((place / "parts" / "cascade.json").read_text())

    def write(name: str, stages: object) -> None:
        (place / name).write_text(json.dumps({"stages": stages}))

    stage = {"model": "networks:net", "weights": "parts/stage-0/best.safetensors"}
    write("empty.json", [])
    write("none.json", None)
    write("key.json", [stage, {**stage, "wieghts": "x"}])
    write("model.json", [{"model": 3, "weights": "x"}])
    write("gone.json", [{**stage, "weights": "nothing.safetensors"}])
    write("width.json", [stage, {**stage, "model": "networks:net(width=4)"}])
    write("classes.json", [stage, {"model": "networks:three", "weights": "three.safetensors"}])
    write("std.json", [{**stage, "std": [0.0]}])
    (place / "list.json").write_text(json.dumps(good["stages"]))
    (place / "cut.json").write_text(json.dumps(good)[:40])
    (place / "binary.json").write_bytes(b"\xff\xfe")
    from networks import three

    save_file(three().state_dict(), place / "three.safetensors")
    state = torch.load(place / "cascade.pth")["state_dict"][0]
    torch.save([state, {**state, "1.bias": torch.full((20,), torch.nan)}], place / "nan.pth")
    torch.save([state, {}], place / "keys.pth")
    torch.save([], place / "nothing.pth")


BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "missing": (("nothing.json",), "MODEL = nothing.json: cannot be read: No such file"),
    "no stages": (("empty.json",), "MODEL = empty.json: not a cascade file with a list of stages"),
    "stages are null": (("none.json",), "not a cascade file with a list of stages"),
    "a list": (("list.json",), "not a cascade file with a list of stages"),
    "cut": (("cut.json",), "not a cascade file with a list of stages"),
    "binary": (("binary.json",), "MODEL = binary.json: cannot be read: not a text file"),
    "unknown key": (("key.json",), "wieghts"),
    "model is a number": (("model.json",), "model must be text"),
    "weights are missing": (("gone.json",), "weights = nothing.safetensors: no such file"),
    "weights of another width": (("width.json",), "do not fit the network: wrong shapes"),
    "other classes": (("classes.json",), "gives 3 outputs, but the data has 10 classes"),
    "std of a stage": (("std.json",), "std = [0.0]: every number must be finite and above 0"),
    "weights beside the file": ((*FILE, "--weights", "cascade.pth"), "weights = cascade.pth: leave it out"),
    "mean beside the file": ((*FILE, "--mean", "0.5"), "mean = [0.5]: leave it out"),
    "NaN in one stage": (("networks:net", "--weights", "nan.pth"), "weights = nan.pth#1: NaN or infinite weights in"),
    "keys of one stage": (("networks:net", "--weights", "keys.pth"), "weights = keys.pth#1: do not fit the network"),
    "no state dict": (("networks:net", "--weights", "nothing.pth"), "holds no state dict"),
    "stage that is not there": (("networks:net", "--weights", "cascade.pth#3"), "STAGE goes from 0 to 2"),
}


class TestBadInput:
    @pytest.mark.parametrize(("model", "message"), BAD.values(), ids=BAD)
    def test_one_line(self, refuses: Callable[..., None], place: Path, model: tuple[str, ...], message: str) -> None:
        bad_files(place)
        refuses(certify(model), message)

    def test_where_a_single_network_is_wanted(self, place: Path) -> None:
        from verifix.models import load_model

        with pytest.raises(InvalidValue, match="is a cascade, and this takes a single network"):
            load_model("parts/cascade.json")


def test_weights_are_relative_to_the_file(place: Path) -> None:
    stages = read_cascade("parts/cascade.json")
    assert [stage.weights for stage in stages] == [f"parts/stage-{number}/best.safetensors" for number in range(3)]
