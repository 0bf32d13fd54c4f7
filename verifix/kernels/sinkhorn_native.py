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
        numbers = [rule.regularisation, rule.tolerance, rule.relaxation, rule.momentum]
        return _run(module, "projected_sinkhorn", 3, numbers, rule.max_sweeps, x=x, w=w, cost=cost, budget=budget)

    def conjugate_sinkhorn(
        self,
        x: Tensor,
        g: Tensor,
        cost: Tensor,
        budget: Tensor,
        regularisation: float,
        tolerance: float,
        max_sweeps: int,
    ) -> tuple[Tensor, ...]:
        module = native.module_or_none(self.library)
        if module is None:
            return sinkhorn_reference.conjugate_sinkhorn(x, g, cost, budget, regularisation, tolerance, max_sweeps)
        numbers = [regularisation, tolerance]
        return _run(module, "conjugate_sinkhorn", 4, numbers, max_sweeps, x=x, g=g, cost=cost, budget=budget)


def _run(
    module: Any, name: str, facts: int, rule: list[float], max_sweeps: int, **tensors: Tensor
) -> tuple[Tensor, ...]:
    """One function of a module, on tensors by name; what it finds."""
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    x = tensors["x"]
    z, *numbers = outputs(x, facts)
    shape = [*x.shape, math.isqrt(len(tensors["cost"]))]
    with _device(x, module, shape) as where:
        getattr(module, name)(
            **{key: tensor.data_ptr() for key, tensor in tensors.items()},
            shape=shape,
            rule=rule,
            max_sweeps=max_sweeps,
            z=z.data_ptr(),
            numbers=[number.data_ptr() for number in numbers],
            dtype=str(x.dtype).removeprefix("torch."),
            **where,
        )
    return z, *numbers


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
