"""Plans on CUDA: weights stay on the device, and passes run on the current stream without waiting for it."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from verifix.kernels.plan import Plan, Shape, Stored

KEPT = 64
"""How many schedules a plan keeps."""


def plan_on(device: torch.device, shape: Shape, dtype: torch.dtype) -> Plan:
    """An empty plan for tensors of this device."""
    return CudaPlan(shape, dtype, device) if device.type == "cuda" else Plan(shape, dtype)


class CudaPlan(Plan):
    """A plan whose tensors are on a CUDA device, where a copy of what a step was given lives with the plan.

    Backward passes only, on any stream. They are cut into pieces so that each works in no more than the ``memory`` that
    it is given, or what 32 rows of one input need.
    """

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(shape, dtype, device)
        self.kept: list[Tensor] = []
        self.ready: torch.cuda.Event | None = None
        self.schedules: dict[object, tuple[Any, Tensor]] = {}

    def _place(self, x: Tensor | None) -> int:
        if x is None:
            return 0
        self.kept.append(x.detach().to(self.device, copy=True))
        self._mark()
        return self.kept[-1].data_ptr()

    def _mark(self) -> None:
        """Note when all copies are there, for passes on other streams."""
        self.ready = self.ready or torch.cuda.Event()
        self.ready.record(torch.cuda.current_stream(self.device))

    def forwards(self, node: Stored) -> bool:
        """No step: forward passes on CUDA are those of torch."""
        return False

    def _execute(self, **request: Any) -> None:
        stream = torch.cuda.current_stream(self.device)
        if self.ready is not None:
            stream.wait_event(self.ready)
        for x in self.kept:
            x.record_stream(stream)
        with torch.cuda.device(self.device):
            self._launch(stream.cuda_stream, request)

    def _launch(self, stream: int, request: dict[str, Any]) -> None:
        memory = request.pop("memory")
        del request["threads"], request["isa"]
        names = ("start", "rows", "positions", "row_offsets")
        rows = {name: request.pop(name) for name in names}
        schedule, tables = self._schedule(stream, inputs=request["inputs"], **rows)
        one, pairs = schedule.bytes_per_pair(), schedule.pairs(inputs=request["inputs"])
        size = min(pairs, max(1, memory // one)) * one
        workspace = torch.empty(size, dtype=torch.uint8, device=self.device)
        schedule.run(**request, tables=tables.data_ptr(), workspace=workspace.data_ptr(), bytes=size, stream=stream)

    def _schedule(
        self, stream: int, *, start: int, rows: int, positions: int, inputs: int, row_offsets: int
    ) -> tuple[Any, Tensor]:
        """Which rows go together, with its tables on the device; kept for passes from the same rows on the same stream.

        Where every input has rows of its own, these hardly come again.
        """
        key = (stream, start, rows, ctypes.string_at(positions, 8 * rows) if positions else None)
        if not row_offsets and key in self.schedules:
            return self.schedules[key]
        schedule = self.native.schedule(
            start=start, rows=rows, positions=positions, inputs=inputs, row_offsets=row_offsets
        )
        made = schedule, self._upload(schedule.tables())
        if not row_offsets:
            if len(self.schedules) == KEPT:
                del self.schedules[next(iter(self.schedules))]
            self.schedules[key] = made
        return made

    def _upload(self, data: bytes) -> Tensor:
        """A copy on the device, in the order of the current stream; through pinned memory, so that nothing waits."""
        host = torch.frombuffer(bytearray(data or bytes(1)), dtype=torch.uint8)
        return host.pin_memory().to(self.device, non_blocking=True)
