from __future__ import annotations

import gzip
import os
import signal
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import verifix as vx
from tests.cli.killing import check_killed_run, wait_for_results
from tests.cli.written import lines, summary_of
from verifix.data import load

NETWORKS = """
import torch
from torch import nn

def net():
    first = nn.Conv2d(1, 4, 3, stride=2, padding=1)
    return nn.Sequential(first, nn.ReLU(), nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))

def long():
    hidden = [layer for _ in range(4) for layer in (nn.Linear(200, 200), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 200), nn.ReLU(), *hidden, nn.Linear(200, 10))

class Unsupported(nn.Module):
    def forward(self, x):
        return torch.special.erfcx(x.flatten(1)[:, :10])

def images():
    return nn.Conv2d(1, 10, 3)

def three():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

def larger():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

def number():
    return 7

def missing():
    import a_module_that_is_not_there
"""


@pytest.fixture
def place(place: Path) -> Path:
    """A working folder with networks of the user's own and weights for one."""
    import networks  # type: ignore[import-not-found]

    torch.manual_seed(1)
    model = networks.net()
    save_file(model.state_dict(), place / "net.safetensors")
    return place


def certify(*args: object, out: str = "run", data: str = "digits", eps: str = "0.01") -> list[object]:
    """A command line that is right, and what a test adds to it; of options named twice the last one counts."""
    model = ["networks:net", "--weights", "net.safetensors"]
    return ["certify", *model, "--data", data, "--eps", eps, "--limit", "40", "--batch", "16", "--out", out, *args]


class TestResults:
    def test_equal_to_the_library(self, verifix: Callable[..., Any], place: Path) -> None:
        status, out, err = verifix(*certify("--norm", "l2", "--box", "0", "1", "--method", "crown+ibp", eps="1/50"))
        assert (status, err) == (0, "")
        from networks import net

        from verifix.models import load_model

        assert isinstance(net(), nn.Module)
        model = load_model("networks:net", "net.safetensors")
        data = load("digits").first(40)
        result = vx.certify(model, data.images, data.labels, vx.Ball("l2", 0.02, (0, 1)), method="crown+ibp")
        written = lines(place / "run")
        assert [line["verdict"] for line in written] == list(result.verdicts)
        assert [line["margin"] for line in written] == pytest.approx(result.margin.tolist(), rel=1e-4, abs=1e-6)
        assert [line["index"] for line in written] == list(range(40))
        assert [line["label"] for line in written] == data.labels.tolist()
        assert [line["prediction"] for line in written] == model(data.images).argmax(1).tolist()

        summary = summary_of(place / "run")
        verified = sum(verdict == "verified" for verdict in result.verdicts)
        assert summary["certified_error"] == (40 - verified) / 40
        assert f"{summary['certified_error']:.2%}" in out
        assert f"{summary['clean_error']:.2%}" in out
        assert (summary["n"], summary["method"], summary["norm"], summary["eps"]) == (40, "crown+ibp", "l2", 0.02)
        assert summary["settings"]["box"] == [0.0, 1.0]
        assert summary["settings"]["model"] == "networks:net"

    def test_normalisation_belongs_to_the_network(self, verifix: Callable[..., Any], place: Path) -> None:
        """Radius in raw units: normalising by 1/2 doubles what the network sees of it."""
        data = load("digits").first(40)
        np.savez(place / "scaled.npz", x=2 * data.images.numpy(), y=data.labels.numpy())
        assert verifix(*certify("--std", "0.5", out="a")).status == 0
        assert verifix(*certify(out="b", data="npz:scaled.npz", eps="0.02")).status == 0
        first, second = lines(place / "a"), lines(place / "b")
        assert [line["verdict"] for line in first] == [line["verdict"] for line in second]
        assert [line["margin"] for line in first] == pytest.approx([line["margin"] for line in second], abs=1e-5)

    def test_float64(self, verifix: Callable[..., Any], place: Path) -> None:
        for dtype in ("float32", "float64"):
            assert verifix(*certify("--dtype", dtype, "--method", "ibp", out=dtype)).status == 0
        single, double = lines(place / "float32"), lines(place / "float64")
        assert [line["margin"] for line in single] == pytest.approx([line["margin"] for line in double], abs=1e-4)
        assert [line["margin"] for line in single] != [line["margin"] for line in double]

    def test_exported_program(self, verifix: Callable[..., Any], place: Path) -> None:
        from networks import net

        from verifix.weights import fit_weights, read_weights

        model = net().eval()
        fit_weights(model, read_weights("net.safetensors"), "net.safetensors")
        shapes = ({0: torch.export.Dim.AUTO},)
        torch.export.save(torch.export.export(model, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=shapes), "net.pt2")
        common = ["--data", "digits", "--limit", "40", "--eps", "0.01"]
        assert verifix("certify", "net.pt2", *common, "--out", "exported").status == 0
        assert verifix(*certify("--batch", "50")).status == 0
        exported, direct = lines(place / "exported"), lines(place / "run")
        assert [line["verdict"] for line in exported] == [line["verdict"] for line in direct]
        assert [line["margin"] for line in exported] == pytest.approx([line["margin"] for line in direct], abs=1e-5)

    def test_residual_network_and_normalisation(self, verifix: Callable[..., Any], place: Path) -> None:
        generator = np.random.default_rng(0)
        np.savez(place / "har.npz", x=generator.random((6, 561), np.float32), y=np.arange(6) % 3)
        common = ["--data", "npz:har.npz", "--eps", "1e-4", "--mean", "0.5", "--std", "0.25", "--method", "crown-ibp"]
        status, _, err = verifix("certify", "verifix.zoo:har_resnet", *common, "--out", "run")
        assert (status, err) == (0, "")
        assert all(line["margin"] is not None for line in lines(place / "run"))

    def test_seed_of_random_weights(self, verifix: Callable[..., Any], place: Path) -> None:
        for out, seed in (("a", 1), ("b", 1), ("c", 2)):
            args = (
                "certify",
                "networks:net",
                "--data",
                "digits",
                "--limit",
                5,
                "--eps",
                0,
                "--out",
                out,
                "--seed",
                seed,
            )
            assert verifix(*args).status == 0
        assert lines(place / "a") == lines(place / "b") != lines(place / "c")

    def test_missing_training_files_are_mentioned(self, verifix: Callable[..., Any], place: Path) -> None:
        records = np.zeros((10_000, 3073), np.uint8)
        (place / "data_batch_3.bin.gz").write_bytes(gzip.compress(records.tobytes(), 1))
        args = ("--data", "cifar10:.:train", "--eps", "0", "--limit", "2", "--method", "ibp", "--out", "run")
        status, out, _ = verifix("certify", "verifix.zoo:cifar_small", *args)
        assert status == 0
        assert "1 of 5 training files are there" in " ".join(out.split())


def idx(values: np.ndarray, magic: int) -> bytes:
    return struct.pack(f">{1 + values.ndim}I", magic, *values.shape) + values.astype(np.uint8).tobytes()


def write_bad_input(place: Path) -> None:
    """Every file that is wrong in some way."""
    images, labels = np.zeros((3, 8, 8)), np.array([1, 2, 3])
    for name, (image_bytes, label_bytes) in {
        "cut": (idx(images, 0x803)[:100], idx(labels, 0x801)),
        "magic": (idx(images, 0x801), idx(labels, 0x801)),
        "labels": (idx(images, 0x803), idx(labels + 9, 0x801)),
        "counts": (idx(images, 0x803), idx(labels[:2], 0x801)),
    }.items():
        (place / name).mkdir()
        (place / name / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(image_bytes))
        (place / name / "t10k-labels-idx1-ubyte").write_bytes(label_bytes)
    (place / "cut" / "t10k-labels-idx1-ubyte").write_bytes(b"")
    (place / "empty").mkdir()
    x, y = load("digits").first(9).images.numpy(), np.arange(9)
    np.savez(place / "normalised.npz", x=(x - 0.3) / 0.3, y=y)
    np.savez(place / "nan.npz", x=np.where(x > 0.9, np.nan, x), y=y)
    np.savez(place / "many.npz", x=x, y=y + 9)
    from networks import net

    state = net().state_dict()
    torch.save({key: value for key, value in state.items() if key != "3.bias"}, place / "missing.pth")
    torch.save([state, state], place / "stages.pth")
    state["5.weight"][0, 0] = torch.nan
    torch.save(state, place / "nan.pth")
    whole = (place / "net.safetensors").read_bytes()
    (place / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (place / "a_file").write_text("mine")


# what is added to a command line that is right, and what its one line of error must say
BAD_INPUT: dict[str, tuple[list[str], str]] = {
    "data folder is missing": (["--data", "mnist:nothing"], "nothing: no such folder"),
    "data file is missing": (["--data", "mnist:empty"], "t10k-images-idx3-ubyte: no such file"),
    "data file is truncated": (["--data", "mnist:cut"], "expected 208 bytes of content, got 100"),
    "magic number": (["--data", "mnist:magic"], "magic number 0x00000801, expected 0x00000803"),
    "labels out of range": (["--data", "mnist:labels"], "3 labels are out of range 0 to 9, first at index 0: 10"),
    "counts differ": (["--data", "mnist:counts"], "2 labels for 3 images"),
    "data name": (["--data", "mnits:cut"], "data = mnits:cut: use digits"),
    "input is NaN": (["--data", "npz:nan.npz"], "inputs hold NaN or infinity"),
    "more labels than outputs": (["--data", "npz:many.npz"], "gives 10 outputs, but the data has 18 classes"),
    "weights are missing": (["--weights", "nothing.pth"], "weights = nothing.pth: no such file"),
    "weights are truncated": (["--weights", "cut.safetensors"], "not a whole safetensors file"),
    "weights lack a key": (["--weights", "missing.pth"], "missing keys 3.bias"),
    "a stage that is not there": (["--weights", "stages.pth#2"], "STAGE goes from 0 to 1"),
    "weights are NaN": (["--weights", "nan.pth"], "NaN or infinite weights in 5.weight"),
    "eps is negative": (["--eps", "-0.1"], "eps = -0.1: must be finite and >= 0"),
    "eps is NaN": (["--eps", "nan"], "eps = nan: must be finite and >= 0"),
    "box upside down": (["--box", "1", "0"], "box"),
    "inputs outside the box": (["--data", "npz:normalised.npz", "--box", "0", "1"], "9 of 9 inputs outside the box"),
    "norm": (["--norm", "l7"], "choose one of linf, l2, l1"),
    "method": (["--method", "magic"], "choose one of ibp, crown-ibp, cap-ibp, tight-smooth, cap, crown"),
    "std is zero": (["--std", "0"], "std = [0.0]: every number must be finite and above 0"),
    "mean of other channels": (
        ["--mean", "0.5", "0.5"],
        "mean = [0.5, 0.5]: give one number for each of the 1 channels",
    ),
    "device": (["--device", "gpu"], "device = gpu: cannot be used here"),
    "out is a file": (["--out", "a_file"], "out = a_file: is a file"),
    "out under a file": (["--out", "a_file/run"], "out = a_file/run: is a file, or lies under one"),
    "out where nothing can be made": (["--out", "/proc/run"], "out = /proc/run: cannot be made"),
}

# instead of the model and its weights
BAD_MODEL: dict[str, str] = {
    "networks:Unsupported": "erfcx",
    "networks:images": "must give (batch, classes)",
    "networks:three": "gives 3 outputs, but the data has 10 classes",
    "networks:larger": "fails on inputs of shape",
    "networks:number": "MODEL is a int: pass something that returns a torch.nn.Module",
    "networks:missing": "No module named 'a_module_that_is_not_there'",
    "networks:nothing": "networks has no 'nothing'",
    "nothing:net": "cannot import nothing: ModuleNotFoundError",
    "networks:net(width=3)": "unexpected keyword argument 'width'",
    "networks": "use package.module:callable",
    "net.onnx": "ONNX files cannot be read yet",
    "net.pt2": "MODEL = net.pt2: no such file",
    "a_file.pt2": "not a program that torch.export.save wrote",
}


class TestBadInput:
    """One line, status 2, and nothing is written; to a run that is there already neither."""

    @pytest.mark.parametrize(("extra", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
    def test_input(self, refuses: Callable[..., None], place: Path, extra: list[str], message: str) -> None:
        write_bad_input(place)
        refuses(certify(*extra, out=extra[1] if extra[0] == "--out" else "fresh"), message)

    @pytest.mark.parametrize(("model", "message"), BAD_MODEL.items(), ids=BAD_MODEL)
    def test_model(self, refuses: Callable[..., None], place: Path, model: str, message: str) -> None:
        (place / "a_file.pt2").write_text("mine")
        args: list[object] = ["certify", model, "--data", "digits", "--eps", "0.1", "--out", "fresh"]
        refuses(args, message)

    def test_unsupported_operation_names_the_line(self, verifix: Callable[..., Any], place: Path) -> None:
        args = ["certify", "networks:Unsupported", "--data", "digits", "--eps", "0.1", "--out", "fresh"]
        number = 1 + NETWORKS.splitlines().index("        return torch.special.erfcx(x.flatten(1)[:, :10])")
        assert f"networks.py:{number}" in verifix(*args).err.replace('", line ', ":")

    def test_run_that_is_there(self, verifix: Callable[..., Any], refuses: Callable[..., None], place: Path) -> None:
        assert verifix(*certify()).status == 0
        write_bad_input(place)
        refuses(certify(), "holds 40 results already: add --resume")
        refuses(certify("--resume", eps="0.02"), "(eps was 0.01, now 0.02)")
        refuses(certify("--resume", "--box", "0", "1"), "(box was None, now [0.0, 1.0])")
        refuses(certify("--resume", "--method", "ibp"), "(method was cap, now ibp)")
        refuses(certify("--resume", "--seed", "1"), "(seed was 0, now 1)")
        refuses(certify("--resume", "--mean", "0.1"), "mean was None, now [0.1]")
        refuses(certify("--resume", "--limit", "41"), "limit was 40, now 41")
        refuses(certify("--resume", "--batch", "15"), "(batch was 16, now 15)")
        refuses(certify("--resume", "--dtype", "float64"), "dtype was float32, now float64")
        refuses(certify("--resume", data="digits:train"), "data was digits:test, now digits:train")
        refuses(certify("--resume", "--weights", "nan.pth"), "NaN or infinite weights")
        assert verifix(*certify("--resume", "--threads", "1")).status == 0

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_unwritable(self, refuses: Callable[..., None], place: Path) -> None:
        (place / "locked").mkdir(0o500)
        refuses(certify(out="locked/run"), "out = locked/run: cannot be made: Permission denied")
        refuses(certify(out="locked"), "out = locked: cannot be written: Permission denied")


COUNT = 120
LONG = (
    "certify",
    "networks:long",
    "--data",
    "digits",
    "--eps",
    "0.02",
    "--limit",
    str(COUNT),
    "--batch",
    "7",
    "--threads",
    "1",
)


class TestKilled:
    def test_resumed_run_has_the_same_bytes(self, start: Callable[..., subprocess.Popen[str]], place: Path) -> None:
        assert check_killed_run(start, place, LONG, most=4) >= 2
        assert [line["index"] for line in lines(place / "killed")] == list(range(COUNT))

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_asked_to_stop(
        self,
        start: Callable[..., subprocess.Popen[str]],
        verifix: Callable[..., Any],
        place: Path,
        number: signal.Signals,
    ) -> None:
        process = start(*LONG, "--out", "run", cwd=place)
        wait_for_results(process, place / "run", 0)
        process.send_signal(signal.SIGSTOP)  # else it may be done before the second has begun
        second = verifix(*LONG, "--out", "run", "--resume")
        assert second.status == 2
        assert "another process is working on this run" in second.err
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate()
        assert (process.returncode, out) == (130, "")
        decided = len(lines(place / "run"))
        assert 0 < decided < COUNT
        last = f"run: {decided} of {COUNT} inputs are decided; run the same command with --resume to continue"
        assert err.splitlines()[-1] == f"verifix: interrupted: {last}"
        assert not (place / "run" / "summary.json").exists()
