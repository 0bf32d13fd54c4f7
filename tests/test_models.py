from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from verifix import zoo
from verifix.data import load
from verifix.errors import InvalidType, InvalidValue, UserError
from verifix.models import Normalize, fingerprint, load_model, probe

SMALL = "verifix.zoo:mnist_small"

USERS = """
from torch import nn
class Nets:
    @staticmethod
    def make(width, *, bias=True):
        return nn.Linear(width, 2, bias=bias)
def broken():
    raise RuntimeError("first line\\nsecond line")
def nothing():
    return 7
ready = 5
"""


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module of the user's own."""
    (tmp_path / "users_networks.py").write_text(USERS)
    (tmp_path / "users_broken.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "users_networks"
    sys.modules.pop("users_networks", None)


def refused(*args: Any, **kwargs: Any) -> str:
    """The message of the error that ``load_model`` gives: one line."""
    with pytest.raises(UserError) as caught:
        load_model(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.fixture
def state() -> dict[str, Tensor]:
    return dict(zoo.mnist_small().state_dict())


class TestSpec:
    def test_callable(self) -> None:
        model = load_model("verifix.zoo:mnist_small")
        assert not model.training
        assert [type(module) for module in model.children()] == [type(module) for module in zoo.mnist_small()]

    @pytest.mark.parametrize("spec", ["verifix.zoo:mnist_wide(2)", "verifix.zoo:mnist_wide( k = 2 )"])
    def test_literal_arguments(self, spec: str) -> None:
        assert load_model(spec)(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
        assert sum(p.numel() for p in load_model(spec).parameters()) == sum(
            p.numel() for p in zoo.mnist_wide(2).parameters()
        )

    def test_attribute_of_a_class(self, users: str) -> None:
        model = load_model(f"{users}:Nets.make(3, bias=False)")
        assert isinstance(model, nn.Linear)
        assert model.in_features == 3
        assert "bias" not in model.state_dict()

    def test_seed_decides_random_weights(self) -> None:
        torch.manual_seed(3)
        first = load_model(SMALL)
        torch.manual_seed(3)
        assert fingerprint(first) == fingerprint(load_model(SMALL))
        assert fingerprint(first) != fingerprint(load_model(SMALL))

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("", "use package.module:callable"),
            ("mnist_small", "use package.module:callable"),
            ("verifix.zoo:", "use package.module:callable"),
            ("verifix.zoo:mnist_smal", "verifix.zoo has no 'mnist_smal'; it has cifar_large, "),
            (
                "verifix.nothing:f",
                "cannot import verifix.nothing: ModuleNotFoundError: No module named 'verifix.nothing'",
            ),
            (
                "users_broken:f",
                "cannot import users_broken: ModuleNotFoundError: No module named 'a_module_that_is_not_there'",
            ),
            ("users_networks:ready", "ready is a int"),
            ("users_networks:broken", "calling it fails: RuntimeError: first line"),
            ("verifix.zoo:mnist_wide", "calling it fails: TypeError: mnist_wide() missing 1 required"),
            ("verifix.zoo:mnist_wide(0)", "k = 0: must be a whole number of at least 1"),
            ("verifix.zoo:mnist_wide(k=k)", "optionally with literal arguments"),
            ("verifix.zoo:mnist_wide(**{'k': 1})", "optionally with literal arguments"),
            ("verifix.zoo:mnist_wide(*[1])", "optionally with literal arguments"),
            ("verifix.zoo:mnist_wide(__import__('os').getpid())", "optionally with literal arguments"),
            ("verifix.zoo:mnist_wide(1)(2)", "optionally with literal arguments"),
            ("verifix.zoo:mnist_wide(1", "optionally with literal arguments"),
            ("network.onnx", "ONNX files cannot be read yet: export the network with torch.export"),
            ("nothing.pt2", "no such file"),
        ],
    )
    def test_refused(self, users: str, spec: str, message: str) -> None:
        assert message in refused(spec)

    def test_no_module(self, users: str) -> None:
        with pytest.raises(InvalidType, match=r"pass something that returns a torch.nn.Module"):
            load_model(f"{users}:nothing")


class TestExported:
    @staticmethod
    def export(path: Path, *, batch: Any) -> nn.Module:
        model = zoo.mnist_wide(1).eval()
        shapes = ({0: batch},)
        torch.export.save(torch.export.export(model, (torch.zeros(2, 1, 28, 28),), dynamic_shapes=shapes), path)
        return model

    def test_values(self, tmp_path: Path) -> None:
        model = self.export(tmp_path / "m.pt2", batch=torch.export.Dim.AUTO)
        loaded, x = load_model(str(tmp_path / "m.pt2")), torch.rand(5, 1, 28, 28)
        assert torch.equal(loaded(x), model(x))
        assert not loaded.training
        assert loaded.eval() is loaded
        doubled = load_model(str(tmp_path / "m.pt2"), mean=[0.0], std=[0.5], dtype=torch.float64)
        torch.testing.assert_close(doubled(x.double()), model.double()(2 * x.double()))

    def test_fixed_batch(self, tmp_path: Path) -> None:
        self.export(tmp_path / "m.pt2", batch=None)
        with pytest.raises(InvalidValue, match="dynamic_shapes for the batch axis"):
            probe(load_model(str(tmp_path / "m.pt2")), torch.zeros(5, 1, 28, 28), 10)

    @pytest.mark.parametrize("kept", [0, 100, 0.5])
    def test_damaged(self, tmp_path: Path, kept: float) -> None:
        path = tmp_path / "m.pt2"
        self.export(path, batch=None)
        content = path.read_bytes()
        path.write_bytes(content[: int(kept if kept > 1 else kept * len(content))])
        assert "not a program that torch.export.save wrote" in refused(str(path))


class TestWeights:
    @pytest.mark.parametrize(
        "wrap", [lambda s: s, lambda s: [s], lambda s: {"state_dict": s}, lambda s: {"state_dict": [s], "epoch": 3}]
    )
    @pytest.mark.parametrize("suffix", [".pth", ".pt"])
    def test_pickled(self, tmp_path: Path, state: dict[str, Tensor], wrap: Any, suffix: str) -> None:
        path = save(wrap(state), tmp_path / f"w{suffix}")
        loaded = load_model(SMALL, path).state_dict()
        assert all(torch.equal(loaded[key], state[key]) for key in state)

    def test_safetensors(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        save_file(state, tmp_path / "w.safetensors")
        loaded = load_model(SMALL, tmp_path / "w.safetensors").state_dict()
        assert all(torch.equal(loaded[key], state[key]) for key in state)

    def test_float64_is_not_rounded_on_the_way(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        precise = {key: value.double() + 1e-12 for key, value in state.items()}
        loaded = load_model(SMALL, save(precise, tmp_path / "w.pth"), dtype=torch.float64).state_dict()
        assert all(torch.equal(loaded[key], precise[key]) for key in state)

    def test_stages(self, tmp_path: Path) -> None:
        stages = [dict(zoo.mnist_wide(1).state_dict()) for _ in range(3)]
        path = save({"state_dict": stages}, tmp_path / "w.pth")
        for number, stage in enumerate(stages):
            assert torch.equal(
                load_model("verifix.zoo:mnist_wide(1)", f"{path}#{number}").state_dict()["0.weight"], stage["0.weight"]
            )
        message = refused("verifix.zoo:mnist_wide(1)", path)
        assert f"holds 3 state dicts: name one as --weights {path}#STAGE, with STAGE from 0 to 2" in message
        assert "STAGE goes from 0 to 2" in refused("verifix.zoo:mnist_wide(1)", f"{path}#3")

    def test_stage_of_a_single_one(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        path = save(state, tmp_path / "w.pth")
        assert "holds one state dict: leave out #0" in refused(SMALL, f"{path}#0")

    def test_hash_in_a_file_name(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        save_file(state, tmp_path / "w.safetensors#1")
        assert "must be a .safetensors" in refused(SMALL, tmp_path / "w.safetensors#1")

    def test_keys_that_do_not_fit(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        del state["2.bias"]
        state["9.weight"] = torch.zeros(1)
        state["0.weight"] = torch.zeros(16, 3, 4, 4)
        state["5.bias"] = torch.zeros(100, dtype=torch.int64)
        message = refused(SMALL, save(state, tmp_path / "w.pth"))
        assert "missing keys 2.bias; unexpected keys 9.weight; wrong shapes 0.weight (16, 3, 4, 4)" in message
        assert "where the network has (16, 1, 4, 4); wrong types 5.bias torch.int64" in message

    def test_many_keys_stay_one_short_line(self, tmp_path: Path) -> None:
        message = refused("verifix.zoo:cifar_resnet", save(dict(zoo.mnist_small().state_dict()), tmp_path / "w.pth"))
        assert "missing keys 2.main.0.weight, 2.main.0.bias, 2.main.2.weight, 2.main.2.bias and 22 more" in message
        assert len(message) < 700

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
    def test_not_finite(self, tmp_path: Path, state: dict[str, Tensor], bad: float) -> None:
        state["5.weight"][3, 4] = bad
        assert "NaN or infinite weights in 5.weight" in refused(SMALL, save(state, tmp_path / "w.pth"))
        save_file(state, tmp_path / "w.safetensors")
        assert "NaN or infinite weights in 5.weight" in refused(SMALL, tmp_path / "w.safetensors")

    @pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
    @pytest.mark.parametrize("kept", [0, 5, 1000, 300_000])
    def test_truncated(self, tmp_path: Path, state: dict[str, Tensor], name: str, kept: int) -> None:
        path = tmp_path / name
        if name == "w.pth":
            save(state, path)
        else:
            save_file(state, path)
        path.write_bytes(path.read_bytes()[:kept])
        assert "weights = " in refused(SMALL, path)

    @pytest.mark.parametrize("content", [zoo.mnist_small(), {"optimizer": {"lr": 1}}, 3, [], {"state_dict": 4}])
    def test_no_state_dict(self, tmp_path: Path, content: Any) -> None:
        assert "weights = " in refused(SMALL, save(content, tmp_path / "w.pth"))

    def test_missing_file(self, tmp_path: Path) -> None:
        assert "no such file" in refused(SMALL, tmp_path / "w.pth")
        assert "no such file" in refused(SMALL, f"{tmp_path}/w.pth#0")

    def test_nan_without_a_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        broken = nn.Linear(2, 2)
        nn.init.constant_(broken.bias, torch.nan)
        monkeypatch.setattr(zoo, "mnist_500", lambda: broken)
        assert "MODEL = verifix.zoo:mnist_500: NaN or infinite weights in bias" in refused("verifix.zoo:mnist_500")

    def test_published(self, models_dir: Path) -> None:
        load_model(SMALL, models_dir / "convex_adversarial" / "mnist.pth")
        load_model(SMALL, models_dir / "projected_sinkhorn" / "mnist_vanilla.pth")
        cascade = models_dir / "convex_adversarial" / "mnist_small_0_3.pth"
        assert "holds 3 state dicts" in refused(SMALL, cascade)
        load_model(SMALL, f"{cascade}#2")


CIFAR = {"mean": (0.485, 0.456, 0.406), "std": (0.225, 0.225, 0.225)}


@pytest.mark.parametrize(
    ("network", "weights", "data", "options", "error"),
    [
        ("mnist_small", "convex_adversarial/mnist.pth", "mnist", {}, 0.0180),
        ("mnist_small", "convex_adversarial/mnist_small_0_3.pth#0", "mnist", {}, 0.1477),
        ("mnist_small", "fast_adversarial/mnist_fgsm.pth", "mnist", {}, 0.0150),
        ("mnist_small", "projected_sinkhorn/mnist_vanilla.pth", "mnist", {}, 0.0111),
        ("cifar_small", "convex_adversarial/cifar_small_8px.pth#0", "cifar10", CIFAR, 0.7240),
    ],
)
def test_published_clean_error(
    data_dir: Path, models_dir: Path, network: str, weights: str, data: str, options: dict[str, Any], error: float
) -> None:
    folder = {"mnist": "mnist", "cifar10": "cifar-10-batches-bin"}[data]
    test = load(f"{data}:{data_dir / folder}")
    model = load_model(f"verifix.zoo:{network}", f"{models_dir / weights}", **options, input_shape=test.input_shape)
    with torch.no_grad():
        wrong = sum(
            int((model(x).argmax(1) != y).sum())
            for x, y in zip(test.images.split(1000), test.labels.split(1000), strict=True)
        )
    assert wrong / len(test) == error


class TestNormalize:
    def test_values(self, tmp_path: Path) -> None:
        inner = zoo.cifar_small()
        path = save(inner.state_dict(), tmp_path / "w.pth")
        mean, std = [0.485, 0.456, 0.406], [0.225, 0.2, 0.25]
        model, x = load_model("verifix.zoo:cifar_small", path, mean, std), torch.rand(2, 3, 32, 32)
        scaled = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        assert torch.equal(model(x), inner(scaled))
        assert not any(module.training for module in model.modules())

    def test_one_number_for_all(self) -> None:
        x = torch.rand(2, 3, 4, 4)
        assert torch.equal(Normalize([0.5], [0.25], (3, 4, 4))(x), (x - 0.5) / 0.25)
        rows = torch.rand(2, 7)
        assert torch.equal(Normalize([0.5], [0.25], (7,))(rows), (rows - 0.5) / 0.25)

    def test_mean_or_std_alone(self) -> None:
        x = torch.rand(1, 1, 28, 28)
        torch.manual_seed(0)
        plain = load_model("verifix.zoo:mnist_small")
        torch.manual_seed(0)
        shifted = load_model("verifix.zoo:mnist_small", mean=[0.5])
        assert torch.equal(shifted(x), plain(x - 0.5))

    @pytest.mark.parametrize(
        ("mean", "std", "message"),
        [
            ([0.5, 0.5], [1.0], "mean = [0.5, 0.5]: give one number for each of the 3 channels"),
            ([0.5], [1.0, 2.0], "std = [1.0, 2.0]: give one number for each of the 3 channels"),
            ([0.5], [0.0], "std = [0.0]: every number must be finite and above 0"),
            ([0.5], [1.0, -1.0, 1.0], "std = [1.0, -1.0, 1.0]: every number must be finite and above 0"),
            ([0.5], [float("nan")], "std = [nan]: every number must be finite and above 0"),
            ([float("inf")], [1.0], "mean = [inf]: every number must be finite"),
        ],
    )
    def test_refused(self, mean: list[float], std: list[float], message: str) -> None:
        assert message in refused("verifix.zoo:cifar_small", None, mean, std, input_shape=(3, 32, 32))


class TestProbe:
    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (nn.Flatten(0), "must give (batch, classes), but for inputs of shape (2, 4) it gives (8,)"),
            (nn.Unflatten(1, (2, 2)), "it gives (2, 2, 2)"),
            (nn.LSTM(4, 4), "it gives a tuple"),
            (nn.Linear(4, 2), "gives 2 outputs, but the data has 3 classes"),
            (nn.Linear(5, 3), "fails on inputs of shape (2, 4): RuntimeError: "),
            (nn.Threshold(2.0, torch.nan), "gives NaN or infinity"),
        ],
    )
    def test_refused(self, model: nn.Module, message: str) -> None:
        with pytest.raises(InvalidValue) as caught:
            probe(model, torch.ones(2, 4), 3, "users:net")
        assert str(caught.value).startswith("MODEL = users:net: ")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_one_output_is_no_classifier(self) -> None:
        with pytest.raises(InvalidValue, match="gives 1 outputs"):
            probe(nn.Linear(4, 1), torch.ones(2, 4), 1)

    def test_more_outputs_than_classes(self) -> None:
        probe(nn.Linear(4, 5), torch.ones(2, 4), 3)


def test_fingerprint_sees_every_change() -> None:
    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))

    changed = net()
    changed[1].running_var[0] += 1e-6  # type: ignore[index]
    other_names = nn.ModuleDict({"a": net()})
    prints = {fingerprint(net()), fingerprint(changed), fingerprint(net().double()), fingerprint(other_names)}
    assert len(prints) == 4
    assert fingerprint(net()) == fingerprint(net())
