"""Types of the compiled CPU part."""

from typing import TypedDict

class Config(TypedDict):
    compiler: str
    flags: str
    isas_known: list[str]
    isas: list[str]
    openmp: int | None
    cuda_build: str

def abs_median(
    *, x: int, values: int, index: int, batch: int, k: int, n: int, dtype: str, threads: int, isa: str
) -> None: ...
def config() -> Config: ...
