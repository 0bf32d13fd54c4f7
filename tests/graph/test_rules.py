"""Every rule for an operation of an exported program, against the operation itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verifix.graph import Graph, exported
from verifix.graph.aten import RULES, SUPPORTED

aten = torch.ops.aten
SHAPE = (2, 4, 6)
Function = Callable[["Collection", Tensor], Tensor]

CASES: dict[str, Function] = {
    "linear": lambda m, x: F.linear(x, m.square, m.bias),
    "linear without bias": lambda m, x: F.linear(x, m.square[:4]),
    "linear with computed weight": lambda m, x: F.linear(x, (2 * m.square).T),
    "matmul": lambda m, x: x @ m.square,
    "mm": lambda m, x: aten.mm.default(x[:, 0, 0], m.square),
    "addmm": lambda m, x: torch.addmm(m.bias, x[:, 1, 2], m.square),
    "conv1d": lambda m, x: F.conv1d(x[:, :, 0], m.kernel[:, :, 0], m.bias[:3], stride=2, padding=1),
    "conv1d same": lambda m, x: F.conv1d(x[:, :, 0], m.kernel[:, :, 0, :2], padding="same"),
    "conv2d": lambda m, x: F.conv2d(x, m.kernel, m.bias[:3], stride=(1, 2), padding=1, dilation=(1, 2)),
    "conv2d groups": lambda m, x: F.conv2d(x, m.kernel[:2, :1], groups=2),
    "conv2d valid": lambda m, x: F.conv2d(x, m.kernel, padding="valid"),
    "conv2d same": lambda m, x: F.conv2d(x, m.kernel, padding="same"),
    "conv2d same even": lambda m, x: F.conv2d(x, m.kernel[:, :, :2, :2], padding="same", dilation=(1, 3)),
    "batch_norm": lambda m, x: F.batch_norm(x, m.mean, m.variance, m.bias[:2], m.bias[2:4], False, 0.3, 0.01),
    "batch_norm without parameters": lambda m, x: F.batch_norm(x, m.mean, m.variance),
    "_native_batch_norm_legit_no_training": lambda m, x: aten._native_batch_norm_legit_no_training.default(
        x, m.bias[:2], None, m.mean, m.variance, 0.1, 1e-5
    )[0],
    "avg_pool1d": lambda m, x: F.avg_pool1d(x[:, :, 0], 3, 2, 1, ceil_mode=True, count_include_pad=False),
    "avg_pool2d": lambda m, x: F.avg_pool2d(x, (3, 2), (1, 2), (1, 0), ceil_mode=True),
    "avg_pool2d divisor": lambda m, x: F.avg_pool2d(x, 2, divisor_override=3),
    "adaptive_avg_pool1d": lambda m, x: F.adaptive_avg_pool1d(x[:, :, 0], 4),
    "adaptive_avg_pool2d": lambda m, x: F.adaptive_avg_pool2d(x, (3, 4)),
    "_adaptive_avg_pool2d": lambda m, x: aten._adaptive_avg_pool2d.default(x, [2, 5]),
    "max_pool1d": lambda m, x: F.max_pool1d(x[:, :, 0], 3, 2, 1, 1, True),
    "max_pool1d default stride": lambda m, x: F.max_pool1d(x[:, :, 0], 2),
    "max_pool2d": lambda m, x: F.max_pool2d(x, (2, 3), (1, 2), (1, 0), (1, 2), True),
    "mean": lambda m, x: x.mean(1),
    "mean of several": lambda m, x: x.mean((-1, 2), keepdim=True),
    "sum": lambda m, x: x.sum((1, 2)),
    "add": lambda m, x: x + x.flip(1),
    "add a number": lambda m, x: 3 + x,
    "add a parameter": lambda m, x: x + m.bias,
    "add alpha": lambda m, x: torch.add(x, x.flip(2), alpha=-2),
    "add alpha of a constant": lambda m, x: torch.add(x, m.bias, alpha=0.5),
    "add to a constant": lambda m, x: torch.add(m.bias, x, alpha=0.5),
    "add broadcast": lambda m, x: x[:, :1] + x[:, :, :1],
    "add to a larger constant": lambda m, x: x[:, :1] + torch.ones(1, 3, 4, 6),
    "sub": lambda m, x: x - x.flip(1),
    "sub from a number": lambda m, x: 1.5 - x,
    "sub from a constant": lambda m, x: m.bias - x,
    "sub alpha": lambda m, x: torch.sub(x, x.flip(1), alpha=3),
    "rsub": lambda m, x: torch.rsub(x, m.bias, alpha=2),
    "rsub of a number": lambda m, x: aten.rsub.Scalar(x, 2.0, 3.0),
    "rsub of a branch": lambda m, x: torch.rsub(x, x.flip(3), alpha=2),
    "neg": lambda m, x: -x,
    "mul": lambda m, x: x * -0.25,
    "mul a parameter": lambda m, x: m.mean[:, None, None] * x,
    "mul broadcast": lambda m, x: x[:, :1] * m.square[None, :2, None],
    "div": lambda m, x: x / 3,
    "div by a parameter": lambda m, x: x / m.variance[:, None, None],
    "view": lambda m, x: x.view(x.shape[0], 8, 6),
    "view minus one": lambda m, x: x.view(x.size(0), -1),
    "reshape": lambda m, x: x.permute(0, 2, 3, 1).reshape(-1, 12, 4),
    "_unsafe_view": lambda m, x: aten._unsafe_view.default(x, [x.shape[0], 48]),
    "flatten": lambda m, x: x.flatten(2),
    "unflatten": lambda m, x: x.unflatten(3, (2, 3)),
    "permute": lambda m, x: x.permute(0, 3, 1, 2),
    "transpose": lambda m, x: x.transpose(1, -1),
    "t of a constant": lambda m, x: x @ m.square.t(),
    "squeeze all": lambda m, x: x[:, :1].squeeze(),
    "squeeze one": lambda m, x: x[:, :1].squeeze(1),
    "squeeze several": lambda m, x: x[:, :1, :1].squeeze((1, 2)),
    "unsqueeze": lambda m, x: x.unsqueeze(1),
    "slice": lambda m, x: x[:, :, 1:4:2, -3:],
    "select": lambda m, x: x[:, 1],
    "narrow": lambda m, x: x.narrow(2, 1, 2),
    "flip": lambda m, x: x.flip((1, 3)),
    "roll": lambda m, x: x.roll((1, -2), (1, 3)),
    "expand": lambda m, x: x[:, :1].expand(-1, 3, -1, -1),
    "expand_as": lambda m, x: x[:, :1].expand_as(x),
    "repeat": lambda m, x: x.repeat(1, 2, 1, 3),
    "clone": lambda m, x: x.clone(),
    "contiguous": lambda m, x: x.permute(0, 2, 1, 3).contiguous(),
    "alias": lambda m, x: aten.alias.default(x),
    "detach": lambda m, x: x.detach(),
    "movedim": lambda m, x: x.movedim(1, 2),
    "pixel_shuffle": lambda m, x: F.pixel_shuffle(x.repeat(1, 2, 1, 1), 2),
    "pixel_unshuffle": lambda m, x: F.pixel_unshuffle(x, 2),
    "channel_shuffle": lambda m, x: F.channel_shuffle(x.repeat(1, 2, 1, 1), 2),
    "lift_fresh_copy": lambda m, x: aten.lift_fresh_copy.default(x),
    "a constant in the code": lambda m, x: x + torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    "zeros in the code": lambda m, x: x + torch.zeros(6) + torch.arange(6),
    "to": lambda m, x: x.to(torch.float64),
    "_to_copy": lambda m, x: aten._to_copy.default(x, dtype=torch.float64),
    "index_select": lambda m, x: x.index_select(3, torch.tensor([1, 0, 1, 5])),
    "split": lambda m, x: torch.cat(x.split(4, 3)[::-1], 3),
    "split_with_sizes": lambda m, x: x.split([1, 5], 3)[1],
    "chunk": lambda m, x: x.chunk(3, 3)[1],
    "unbind": lambda m, x: x.unbind(1)[1] - x.unbind(1)[0],
    "pad": lambda m, x: F.pad(x, (1, 2, 0, 1), value=-2.5),
    "pad with zeros": lambda m, x: F.pad(x, (0, 1)),
    "pad by cropping": lambda m, x: F.pad(x, (-1, 1)),
    "pad reflect": lambda m, x: F.pad(x, (2, 1, 1, 3), mode="reflect"),
    "pad replicate": lambda m, x: F.pad(x, (2, 1, 1, 3), mode="replicate"),
    "pad circular": lambda m, x: F.pad(x, (2, 1, 1, 3), mode="circular"),
    "constant_pad_nd": lambda m, x: aten.constant_pad_nd.default(x, [1, 1], 0.5),
    "upsample_nearest1d": lambda m, x: F.interpolate(x[:, :, 0], scale_factor=2.0),
    "upsample_nearest2d": lambda m, x: F.interpolate(x, size=(6, 7)),
    "cat": lambda m, x: torch.cat([x, x[:, :1]], 1),
    "cat last": lambda m, x: torch.cat([x, x], -1),
    "concat": lambda m, x: aten.concat.default([x, x], 2),
    "stack": lambda m, x: torch.stack([x, x.flip(1)], 2),
    "stack last": lambda m, x: torch.stack([x[:, 0], x[:, 1]], -1),
    "dropout": lambda m, x: F.dropout(x, 0.5, m.training),
    "feature_dropout": lambda m, x: F.dropout2d(x, 0.5, m.training),
    "alpha_dropout": lambda m, x: F.alpha_dropout(x, 0.5, m.training),
    "relu": lambda m, x: F.relu(x),
    "leaky_relu": lambda m, x: F.leaky_relu(x, 0.2),
    "leaky_relu default": lambda m, x: F.leaky_relu(x),
    "abs": lambda m, x: x.abs(),
    "clamp": lambda m, x: x.clamp(-0.3, 0.4),
    "clamp below": lambda m, x: x.clamp(min=0.1),
    "clamp above": lambda m, x: x.clamp(max=0.1),
    "clamp_min": lambda m, x: x.clamp_min(-0.2),
    "clamp_max": lambda m, x: x.clamp_max(0.2),
    "hardtanh": lambda m, x: F.hardtanh(x),
    "hardtanh limits": lambda m, x: F.hardtanh(x, -0.5, 0.25),
    "relu6": lambda m, x: F.relu6(8 * x),
    "sigmoid": lambda m, x: x.sigmoid(),
    "tanh": lambda m, x: x.tanh(),
}


class Collection(nn.Module):
    """All cases side by side."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.square = nn.Parameter(torch.randn(6, 6, generator=generator))
        self.bias = nn.Parameter(torch.randn(6, generator=generator))
        self.kernel = nn.Parameter(torch.randn(3, 2, 3, 3, generator=generator))
        self.register_buffer("mean", torch.randn(2, generator=generator))
        self.register_buffer("variance", torch.rand(2, generator=generator) + 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([case(self, x).flatten(1).to(x.dtype) for case in CASES.values()], 1)


@dataclass
class Captured:
    model: Collection
    graph: Graph
    rules: set[str]


def capture(decompose: bool) -> Captured:
    model = Collection().eval()
    seen: set[str] = set()

    def recorded(name: str, rule: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            seen.add(name)
            return rule(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exported, "RULES", {name: recorded(name, rule) for name, rule in RULES.items()})
        if decompose:
            return Captured(model, exported.export(model, torch.zeros(1, *SHAPE)), seen)
        # as a torch that decomposes nothing would give it
        batch = {0: torch.export.Dim("batch", min=1)}
        program = torch.export.export(model, (torch.zeros(2, *SHAPE),), dynamic_shapes=(batch,))
        return Captured(model, exported._Reader(program, model, SHAPE).read(), seen)


@pytest.fixture(scope="module")
def both() -> Iterator[dict[bool, Captured]]:
    yield {decompose: capture(decompose) for decompose in (True, False)}


@pytest.mark.parametrize("decompose", [True, False], ids=["decomposed", "as exported"])
@pytest.mark.parametrize("name", CASES)
def test_the_graph_computes_what_the_operation_computes(both: dict[bool, Captured], name: str, decompose: bool) -> None:
    captured = both[decompose]
    model, graph = captured.model, captured.graph
    with torch.no_grad():
        for n in (2, 5):  # a batch of one would lose its axis to squeeze()
            x = torch.randn(n, *SHAPE)
            sizes = [case(model, x).flatten(1).shape[1] for case in CASES.values()]
            position = list(CASES).index(name)
            wanted = CASES[name](model, x).flatten(1).float()
            got = graph(x).split(sizes, 1)[position]
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_every_rule_is_exercised(both: dict[bool, Captured]) -> None:
    # batch normalisation by the statistics of the batch is refused before its rule is asked: test_refused.py
    # a transposed matrix is a constant; a transposed activation would move the batch
    assert both[True].rules | both[False].rules | {"_native_batch_norm_legit", "t"} == set(RULES)


@pytest.mark.parametrize("decompose", [True, False], ids=["decomposed", "as exported"])
def test_parameters_and_buffers_are_live(decompose: bool) -> None:
    captured = capture(decompose)
    model, graph = captured.model, captured.graph
    x = torch.randn(3, *SHAPE)
    before = graph(x)
    with torch.no_grad():
        for tensor in (model.square, model.bias, model.kernel, model.mean):
            tensor.mul_(-1.5)
        model.variance.mul_(2.0)
    assert not torch.allclose(graph(x), before)
    torch.testing.assert_close(graph(x), model(x), rtol=1e-4, atol=1e-4)
    gradients = torch.autograd.grad(graph(x).sum(), list(model.parameters()))
    wanted = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    for ours, theirs in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-2)
    model.double()
    torch.testing.assert_close(graph(x.double()), model(x.double()), rtol=1e-6, atol=1e-6)


def test_the_list_of_supported_operations_names_what_users_write() -> None:
    assert {"linear", "conv2d", "relu", "max_pool2d", "cat"} <= set(SUPPORTED)
    assert not [name for name in SUPPORTED if name.startswith("_")]
