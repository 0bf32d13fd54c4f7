"""Types of the compiled CUDA part."""

from typing import TypedDict

class Config(TypedDict):
    architectures: str
    runtime_version: int
    driver_version: int
    devices: int

def abs_median(*, x: int, values: int, index: int, batch: int, k: int, n: int, dtype: str, stream: int) -> None: ...
def config() -> Config: ...
