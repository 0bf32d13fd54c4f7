"""Benchmarks time what training does: their steps have its losses and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from bench.cases import CASES
from bench.peak_memory import in_new_process
from bench.steps import Step
from verifix.train import robust_loss


@pytest.mark.parametrize("method", ["none", "ibp", "crown-ibp", "cap"])
def test_steps_are_those_of_the_ball(method: str) -> None:
    case = CASES["mnist-small"]()
    x, y = case.batch(1, 3)
    loss = Step(case, method, estimator="exact")(x, y, 0)
    found = [parameter.grad for parameter in case.model.parameters()]
    if method == "none":
        wanted = functional.cross_entropy(case.model(x), y)
    else:
        wanted = robust_loss(case.graph, y, case.ball.around(x), method)
    torch.testing.assert_close(loss, wanted.detach(), rtol=1e-5, atol=1e-6)
    for gradient, other in zip(found, torch.autograd.grad(wanted, list(case.model.parameters())), strict=True):
        assert gradient is not None
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5)


def test_batches_are_whole() -> None:
    case = CASES["mnist-small"]()
    assert {len(case.batch(index, 128)[0]) for index in range(3)} == {128}


def test_peak_memory_is_measured_in_a_process_of_its_own() -> None:
    found = in_new_process("mnist-small", "verifix.step:crown-ibp", inputs=32, batch=32)
    assert not isinstance(found, str), found
    assert found["growth"] > 1
