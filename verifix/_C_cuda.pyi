"""Types of the compiled CUDA part."""

from typing import TypedDict

from verifix._C import _Steps

class Config(TypedDict):
    architectures: str
    runtime_version: int
    driver_version: int
    devices: int

def abs_median(*, x: int, values: int, index: int, batch: int, k: int, n: int, dtype: str, stream: int) -> None: ...
def config() -> Config: ...

class _BackwardSchedule:
    """Which rows of a pass go together, and where their coefficients are; for passes from the same rows of a node."""

    def tables(self) -> bytes: ...
    def pairs(self, *, inputs: int) -> int: ...
    def bytes_per_pair(self) -> int: ...
    def run(
        self,
        *,
        inputs: int,
        coefficients: int,
        coefficient_batch: int,
        sign: float,
        lines: list[int],
        both: bool,
        hull: int,
        center: int,
        radius: int,
        forms: int = 0,
        low: int,
        high: int,
        tables: int,
        workspace: int,
        bytes: int,
        stream: int,
    ) -> None: ...

class BackwardScheduleFloat32(_BackwardSchedule): ...
class BackwardScheduleFloat64(_BackwardSchedule): ...

class _Plan(_Steps):
    """Weights are borrowed: addresses of the device that must stay valid. Indices and positions are on the CPU."""

    def schedule(
        self, *, start: int, rows: int, positions: int, inputs: int, row_offsets: int
    ) -> _BackwardSchedule: ...

class PlanFloat32(_Plan): ...
class PlanFloat64(_Plan): ...
