"""Transport plans in native code: hands pointers to ``verifix._C`` or ``verifix._C_cuda``; arguments have been checked.

On a CUDA device everything is enqueued on the current stream, and nothing waits.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from verifix.kernels import native
from verifix.kernels import transport_project_reference as reference


class Native:
    """The functions of the reference on one kind of device, by its compiled part."""

    def __init__(self, library: str) -> None:
        self.library = library

    def project_plan(
        self, plan: Tensor, x: Tensor, cost: Tensor, budget: Tensor, start: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        module = native.module_or_none(self.library)
        if module is None:
            return reference.project_plan(plan, x, cost, budget, start)
        plan, x, cost, budget = plan.contiguous(), x.contiguous(), cost.contiguous(), budget.contiguous()
        start = None if start is None else start.contiguous()
        out, multiplier = torch.empty_like(plan), torch.empty_like(budget)
        with _device(plan) as where:
            module.project_plan(
                plan=plan.data_ptr(),
                x=x.data_ptr(),
                cost=cost.data_ptr(),
                budget=budget.data_ptr(),
                start=0 if start is None else start.data_ptr(),
                out=out.data_ptr(),
                multiplier=multiplier.data_ptr(),
                **_shape(plan, reference.window_of(plan.shape[2])),
                **where,
            )
        return out, multiplier

    def plan_image(self, plan: Tensor) -> Tensor:
        module = native.module_or_none(self.library)
        if module is None:
            return reference.plan_image(plan)
        plan = plan.contiguous()
        image = plan.new_empty((*plan.shape[:2], *plan.shape[3:]))
        with _device(plan) as where:
            shape = _shape(plan, reference.window_of(plan.shape[2]))
            module.plan_image(plan=plan.data_ptr(), image=image.data_ptr(), **shape, **where)
        return image

    def plan_gradient(self, g: Tensor, window: int) -> Tensor:
        module = native.module_or_none(self.library)
        if module is None:
            return reference.plan_gradient(g, window)
        g = g.contiguous()
        plan = g.new_empty((*g.shape[:2], window * window, *g.shape[2:]))
        with _device(g) as where:
            module.plan_gradient(image=g.data_ptr(), plan=plan.data_ptr(), **_shape(plan, window), **where)
        return plan


def _shape(plan: Tensor, window: int) -> dict[str, Any]:
    sizes = (*plan.shape[:2], window, *plan.shape[3:])
    return {"shape": sizes, "dtype": str(plan.dtype).removeprefix("torch.")}


@contextlib.contextmanager
def _device(x: Tensor) -> Any:
    """The arguments that say where to run."""
    if x.device.type == "cpu":
        yield {"threads": torch.get_num_threads(), "isa": native.isa()}
        return
    with torch.cuda.device(x.device):
        yield {"stream": torch.cuda.current_stream(x.device).cuda_stream}


cpu = Native("verifix._C")
cuda = Native("verifix._C_cuda")
