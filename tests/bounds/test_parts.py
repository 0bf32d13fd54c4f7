"""Passes that record gradients take some inputs at a time: bounds and gradients are those of all at once."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

from verifix.bounds import Engine, parse_method, tiles
from verifix.graph import capture
from verifix.operations.base import parameters_fixed
from verifix.sets import Ball
from verifix.zoo import ResidualDense


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    strided = nn.Sequential(
        nn.Conv2d(1, 3, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, stride=(2, 1), padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32, 6), nn.ReLU(), nn.Linear(6, 4),
    )  # fmt: skip
    pooled = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 5),
        nn.Tanh(),
        nn.Linear(5, 4),
    )
    return {
        "strided": strided.double(),
        "pooled": pooled.double(),
        "residual": nn.Sequential(ResidualDense(4), nn.Linear(4, 3)).double(),
    }


def lower_bounds(model: nn.Module, x: Tensor, method: str, *, shared: bool, upper: bool) -> list[Tensor]:
    """Bounds, and gradients of their weighted sum by parameters and inputs."""
    x = x.clone().requires_grad_()
    graph = capture(model, x.detach()[:2])
    engine = Engine(graph, Ball("linf", 0.05, (0, 1)).around(x), parse_method(method)[0], rounding=False)
    classes = graph.shape[0]
    rows = torch.eye(classes, dtype=torch.float64)[None] - 1 / classes
    rows = rows if shared else rows * torch.linspace(0.5, 1.5, len(x), dtype=torch.float64)[:, None, None]
    bounds = [side for side in engine.rows(graph.output, rows, upper=upper) if side is not None]
    total = torch.stack([(side * torch.arange(side.numel()).reshape(side.shape).cos()).sum() for side in bounds]).sum()
    return [*bounds, *torch.autograd.grad(total, [x, *model.parameters()])]


@pytest.mark.parametrize("name", ["strided", "pooled", "residual"])
@pytest.mark.parametrize("method", ["crown-ibp", "cap-ibp", "ibp", "crown", "tight-smooth"])
@pytest.mark.parametrize(("shared", "upper"), [(True, True), (False, False)])
def test_parts_are_the_whole(
    name: str, method: str, shared: bool, upper: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = networks()[name]
    torch.manual_seed(1)
    x = torch.rand(5, *((4,) if name == "residual" else (1, 8, 8)), dtype=torch.float64)
    seen = []
    for together in (1 << 62, 2):
        for module in ("backward", "dispatch"):
            monkeypatch.setattr(
                sys.modules[f"verifix.bounds.{module}"], "inputs_in_caches", lambda graph, rows, k=together: k
            )
        seen.append(lower_bounds(model, x, method, shared=shared, upper=upper))
    for found in seen[1:]:
        for ours, whole in zip(found, seen[0], strict=True):
            torch.testing.assert_close(ours, whole, rtol=1e-10, atol=1e-12)


def test_inputs_in_caches() -> None:
    graph = capture(nn.Sequential(nn.Linear(4, 1000), nn.ReLU(), nn.Linear(1000, 3)), torch.rand(2, 4))
    rows = torch.zeros(1, 2, 3)
    assert tiles.inputs_in_caches(graph, rows) == tiles.RECORDED // (1000 * 2 * 4)
    assert tiles.inputs_in_caches(graph, torch.zeros(1, 10**9, 3, device="meta")) > 10**9
    assert tiles.inputs_in_caches(graph, torch.zeros(1, 1, 1).expand(1, 10**9, 3)) == 1
    assert tiles.inputs_in_caches(graph, torch.zeros(1, 0, 3)) > 0


def test_fixed_parameters_get_no_gradients() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    graph = capture(model, torch.rand(2, 2))
    x = torch.rand(1, 2, requires_grad=True)
    with parameters_fixed():
        inside = graph(x)
    torch.autograd.grad(inside.sum(), x, retain_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(inside.sum(), list(model.parameters()))
    with pytest.raises(ValueError, match="stop"), parameters_fixed():
        raise ValueError("stop")
    assert all(g is not None for g in torch.autograd.grad(graph(x).sum(), list(model.parameters())))
