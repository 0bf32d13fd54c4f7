"""A GPU is tried out before it is trusted; the host stands in for one."""

from __future__ import annotations

import logging
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn

from tests.bounds.test_native_cuda import passes_on
from tests.kernels.cuda_on_host import on_gpu
from verifix.bounds import Engine, dispatch, parse_method
from verifix.bounds.first_use import agrees, trusted
from verifix.graph import capture
from verifix.kernels.plan_cuda import CudaPlan
from verifix.sets import Ball

DTYPES = (torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_cpu_needs_no_trial_and_would_pass(dtype: torch.dtype) -> None:
    assert trusted(torch.device("cpu"), dtype)
    assert agrees(torch.device("cpu"), dtype)


@pytest.mark.parametrize("device", ["host", pytest.param("cuda", marks=on_gpu)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_code_that_works_passes(device: str, dtype: torch.dtype) -> None:
    with passes_on(device) as where:
        assert agrees(where, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fault", ["one lane", "one input", "nothing is written", "not a number", "no code"])
def test_faults_are_found(dtype: torch.dtype, fault: str) -> None:
    """Of results that are off in one place only."""
    run = CudaPlan._run

    def wrong(self: CudaPlan, *arguments: Any) -> Any:
        if fault == "no code":
            raise RuntimeError("no kernel image is available for execution on the device")
        low, high = run(self, *arguments)
        if fault == "one lane":
            low[:, 33] += 1e-2
        elif fault == "one input":
            low[1] += 1e-2
        elif fault == "nothing is written":
            low.zero_()
        else:
            low[0, 0] = torch.nan
        return low, high

    with passes_on("host") as where, patch.object(CudaPlan, "_run", wrong):
        assert not agrees(where, dtype)


def test_what_is_not_trusted_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    graph = capture(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 2))
    inputs = Ball("linf", 0.1).around(torch.zeros(2, 2))
    dispatch._say_once.cache_clear()
    with patch.object(dispatch, "trusted", lambda *_: False), caplog.at_level(logging.INFO), torch.no_grad():
        found = Engine(graph, inputs, parse_method("cap")[0])
        low, high = found.node(graph.output)
    assert found._backward.native is None
    assert bool((low <= high).all())
    assert "this GPU, where it disagrees with plain torch" in caplog.text
