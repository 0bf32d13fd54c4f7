"""Linear forms over balls of transport plans by ``verifix._C`` and ``verifix._C_cuda``; arguments have been checked."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from torch import Tensor

from verifix.kernels import native, transport_linear_reference


class Native:
    """The operators of one library; where it is missing, those of the reference."""

    def __init__(self, library: str) -> None:
        self.library = library

    def linear_support(
        self, x: Tensor, g: Tensor, which: Tensor, row: Tensor, cost: Tensor, budget: Tensor
    ) -> tuple[Tensor, Tensor]:
        module = self._module(cost)
        if module is None:
            return transport_linear_reference.linear_support(x, g, which, row, cost, budget)
        upper, multiplier = _vector(x, which), _vector(x, which)
        self._run(module, x, g, which, row, cost, budget, upper=upper, multiplier=multiplier)
        return upper, multiplier

    def linear_maximiser(
        self, x: Tensor, g: Tensor, which: Tensor, row: Tensor, cost: Tensor, budget: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        module = self._module(cost)
        if module is None:
            return transport_linear_reference.linear_maximiser(x, g, which, row, cost, budget)
        z, value, plan_cost = x.new_empty(len(which), *x.shape[1:]), _vector(x, which), _vector(x, which)
        bounds = {"upper": _vector(x, which), "multiplier": _vector(x, which)}
        self._run(module, x, g, which, row, cost, budget, **bounds, z=z, value=value, plan_cost=plan_cost)
        return z, value, plan_cost

    def _module(self, cost: Tensor) -> Any:
        """The library, unless it has no code for a window."""
        if self.library == "verifix._C_cuda" and len(cost) > _MOST_OFFSETS:
            return None
        return native.module_or_none(self.library)

    def _run(
        self, module: Any, x: Tensor, g: Tensor, which: Tensor, row: Tensor, cost: Tensor, budget: Tensor, **out: Tensor
    ) -> None:
        x, g, which, row, budget = (part.contiguous() for part in (x, g, which, row, budget))
        cost = cost.detach().cpu().contiguous()
        with contextlib.ExitStack() as stack:
            if x.is_cuda:
                stack.enter_context(torch.cuda.device(x.device))
                workspace = _workspace(x, which, cost)
                where: dict[str, Any] = {"workspace": workspace.data_ptr(), "bytes": len(workspace)}
                where["stream"] = torch.cuda.current_stream(x.device).cuda_stream
            else:
                where = {"threads": torch.get_num_threads(), "isa": native.isa()}
            module.transport_linear(
                x=x.data_ptr(),
                g=g.data_ptr(),
                image=which.data_ptr(),
                row=row.data_ptr(),
                cost=cost.data_ptr(),
                budget=budget.data_ptr(),
                **{name: out[name].data_ptr() if name in out else 0 for name in _RESULTS},
                images=len(x),
                rows=len(g),
                pairs=len(which),
                channels=x.shape[1],
                height=x.shape[2],
                width=x.shape[3],
                window=math.isqrt(len(cost)),
                dtype=str(x.dtype).removeprefix("torch."),
                **where,
            )


def _workspace(x: Tensor, which: Tensor, cost: Tensor) -> Tensor:
    """What the warps of a launch keep: enough for all of a GPU, in 256 MiB where that is more than one."""
    of_pair = x[0].numel() * (x.element_size() * len(cost) + 12) + 16
    warps = max(1, min(len(which), _WARPS, 2**28 // of_pair))
    return torch.empty(warps * of_pair, dtype=torch.uint8, device=x.device)


_MOST_OFFSETS = 225
"""The CUDA part passes the offsets as an argument of its kernel: windows of up to 15 x 15."""
_WARPS = 4096
_RESULTS = ("upper", "multiplier", "z", "value", "plan_cost")


def _vector(x: Tensor, which: Tensor) -> Tensor:
    return x.new_empty(len(which), dtype=torch.float64)


cpu, cuda = Native("verifix._C"), Native("verifix._C_cuda")
