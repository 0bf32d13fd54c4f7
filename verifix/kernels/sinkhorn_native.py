"""Sinkhorn by native code: hands pointers to ``verifix._C`` and ``verifix._C_cuda``, nothing waits."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from verifix.kernels import native, sinkhorn_reference
from verifix.kernels.sinkhorn_reference import Rule


class Native:
    """The functions of :mod:`verifix.kernels.sinkhorn_reference` on one kind of device, by its compiled part."""

    def __init__(self, library: str) -> None:
        self.library = library

    def projected_sinkhorn(self, x: Tensor, w: Tensor, cost: Tensor, budget: Tensor, rule: Rule) -> tuple[Tensor, ...]:
        module = native.module_or_none(self.library)
        if module is None:
            return sinkhorn_reference.projected_sinkhorn(x, w, cost, budget, rule)
        x, w, cost, budget = x.contiguous(), w.contiguous(), cost.contiguous(), budget.contiguous()
        z, *numbers = outputs(x, 3)
        shape = [*x.shape, math.isqrt(len(cost))]
        with _device(x, module, shape) as where:
            module.projected_sinkhorn(
                x=x.data_ptr(),
                w=w.data_ptr(),
                cost=cost.data_ptr(),
                budget=budget.data_ptr(),
                shape=shape,
                rule=[rule.regularisation, rule.tolerance, rule.relaxation, rule.momentum],
                max_sweeps=rule.max_sweeps,
                z=z.data_ptr(),
                numbers=[number.data_ptr() for number in numbers],
                dtype=str(x.dtype).removeprefix("torch."),
                **where,
            )
        return z, *numbers

    @staticmethod
    def conjugate_sinkhorn(*arguments: Any) -> tuple[Tensor, ...]:
        """In plain torch on every device: it is there to be compared with, see docs/wasserstein-sinkhorn.md."""
        return sinkhorn_reference.conjugate_sinkhorn(*arguments)


def outputs(x: Tensor, facts: int) -> tuple[Tensor, ...]:
    """Memory for z, so many numbers of float64, the number of sweeps, and whether they converged."""
    numbers = [x.new_empty(len(x), dtype=torch.float64) for _ in range(facts)]
    sweeps, converged = x.new_empty(len(x), dtype=torch.int64), x.new_empty(len(x), dtype=torch.bool)
    return torch.empty_like(x, memory_format=torch.contiguous_format), *numbers, sweeps, converged


@contextlib.contextmanager
def _device(x: Tensor, module: Any, shape: list[int]) -> Iterator[dict[str, Any]]:
    """The arguments that say where to run."""
    if x.device.type == "cpu":
        yield {"threads": torch.get_num_threads(), "isa": native.isa()}
        return
    with torch.cuda.device(x.device):
        workspace = x.new_empty(module.sinkhorn_workspace(shape), dtype=torch.uint8)
        stream = torch.cuda.current_stream(x.device).cuda_stream
        yield {"workspace": workspace.data_ptr(), "stream": stream}


cpu = Native("verifix._C")
cuda = Native("verifix._C_cuda")
