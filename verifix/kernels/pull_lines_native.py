"""Rows through lines by native code: hands pointers to ``verifix._C`` and ``verifix._C_cuda``, nothing waits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from verifix.kernels import native
from verifix.kernels.pull_lines_reference import Sides


class Native:
    """The functions of :mod:`verifix.kernels.pull_lines_reference` on one kind of device, by its compiled part."""

    def __init__(self, library: str) -> None:
        self.library = library

    def has(self, dtype: torch.dtype) -> bool:
        """Whether there is a kernel of this type."""
        return dtype in (torch.float32, torch.float64) and native.module_or_none(self.library) is not None

    def pull_lines(self, rows: Tensor, lines: Sides, pulled: Tensor | None, offset: Tensor) -> None:
        """Fills the results, which are contiguous; pulled rows are None where they are not wanted."""
        self._run("pull_lines", rows, lines, {"pulled": pulled, "offset": offset})

    def gradient(
        self, rows: Tensor, lines: Sides, of_pulled: Tensor | None, of_offset: Tensor, results: list[Tensor | None]
    ) -> None:
        """Fills the gradients of the rows, of the four lines, and of the shift by images; None is not wanted."""
        tensors = {"of_pulled": of_pulled, "of_offset": of_offset, "of_rows": results[0]}
        self._run("pull_lines_gradient", rows, lines, tensors, of_lines=[_address(x) for x in results[1:]])

    def _run(self, name: str, rows: Tensor, lines: Sides, tensors: dict[str, Tensor | None], **more: Any) -> None:
        function = getattr(native.module_or_none(self.library), name)
        (n, r, m), dtype = rows.shape, str(rows.dtype).removeprefix("torch.")
        # Copies of what is not contiguous live until the launch; results are contiguous, so that those are no copies.
        rows, sides = rows.contiguous(), [None if line is None else line.contiguous() for line in lines]
        given = {key: None if tensor is None else tensor.contiguous() for key, tensor in tensors.items()}
        arguments: dict[str, Any] = {key: _address(tensor) for key, tensor in given.items()} | more
        arguments |= {"n": n, "r": r, "m": m, "rows": rows.data_ptr(), "lines": [_address(x) for x in sides]}
        if rows.device.type == "cpu":
            function(**arguments, dtype=dtype, threads=torch.get_num_threads(), isa=native.isa())
            return
        with torch.cuda.device(rows.device):
            function(**arguments, dtype=dtype, stream=torch.cuda.current_stream(rows.device).cuda_stream)


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


cpu = Native("verifix._C")
cuda = Native("verifix._C_cuda")
