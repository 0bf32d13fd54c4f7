"""Types of the compiled CUDA part."""

from typing import TypedDict

from verifix._C import _Steps

class Config(TypedDict):
    architectures: str
    runtime_version: int
    driver_version: int
    devices: int

def abs_median(*, x: int, values: int, index: int, batch: int, k: int, n: int, dtype: str, stream: int) -> None: ...

class NoiseNames:
    """Which samples: of the inputs with these numbers, with d coordinates each."""

    def __init__(self, *, inputs: int, n: int, start: int, count: int, d: int, seed: int, purpose: int) -> None: ...

def add_noise(
    *, names: NoiseNames, law: str, x: int, scales: int, scale: float, out: int, dtype: str, stream: int
) -> None: ...
def add_lattice_noise(
    *,
    names: NoiseNames,
    thresholds: int,
    steps: int,
    guide: int,
    guide_rows: int,
    shift: int,
    positions: int,
    levels: int,
    out: int,
    dtype: str,
    stream: int,
) -> None: ...
def keep_or_replace(
    *, names: NoiseNames, threshold: int, positions: int, levels: int, out: int, dtype: str, stream: int
) -> None: ...
def random_words(*, names: NoiseNames, out: int, stream: int) -> None: ...
def add_votes(*, logits: int, counts: int, n: int, count: int, classes: int, dtype: str, stream: int) -> None: ...
def interval_image(
    *,
    midpoint: int,
    radius: int,
    image_midpoint: int,
    image_radius: int,
    pieces: int,
    lower: int,
    upper: int,
    left: float,
    right: float,
    count: int,
    dtype: str,
    stream: int,
) -> None: ...
def interval_image_gradient(
    *,
    pieces: int,
    image_midpoint: int,
    image_radius: int,
    lower: int,
    upper: int,
    midpoint: int,
    radius: int,
    left: float,
    right: float,
    count: int,
    dtype: str,
    stream: int,
) -> None: ...
def pull_lines(
    *,
    n: int,
    r: int,
    m: int,
    rows: int,
    lines: tuple[int, int, int, int, int],
    pulled: int,
    offset: int,
    dtype: str,
    stream: int,
) -> None: ...
def pull_lines_gradient(
    *,
    n: int,
    r: int,
    m: int,
    rows: int,
    lines: tuple[int, int, int, int, int],
    of_pulled: int,
    of_offset: int,
    of_rows: int,
    of_lines: tuple[int, int, int, int, int],
    dtype: str,
    stream: int,
) -> None: ...
def clopper_pearson(
    *, successes: int, trials: int, level: int, lower: int, failure: int, count: int, stream: int
) -> None: ...
def project_plan(
    *,
    plan: int,
    x: int,
    cost: int,
    budget: int,
    start: int,
    out: int,
    multiplier: int,
    shape: tuple[int, int, int, int, int],
    dtype: str,
    stream: int,
) -> None: ...
def plan_image(*, plan: int, image: int, shape: tuple[int, int, int, int, int], dtype: str, stream: int) -> None: ...
def plan_gradient(*, image: int, plan: int, shape: tuple[int, int, int, int, int], dtype: str, stream: int) -> None: ...
def transport_linear(
    *,
    x: int,
    g: int,
    image: int,
    row: int,
    cost: int,
    budget: int,
    upper: int,
    multiplier: int,
    z: int,
    value: int,
    plan_cost: int,
    images: int,
    rows: int,
    pairs: int,
    channels: int,
    height: int,
    width: int,
    window: int,
    dtype: str,
    workspace: int,
    bytes: int,
    stream: int,
) -> None: ...
def projected_sinkhorn(
    *,
    x: int,
    w: int,
    cost: int,
    budget: int,
    shape: list[int],
    rule: list[float],
    max_sweeps: int,
    z: int,
    numbers: list[int],
    dtype: str,
    workspace: int,
    stream: int,
) -> None: ...
def conjugate_sinkhorn(
    *,
    x: int,
    g: int,
    cost: int,
    budget: int,
    shape: list[int],
    rule: list[float],
    max_sweeps: int,
    z: int,
    numbers: list[int],
    dtype: str,
    workspace: int,
    stream: int,
) -> None: ...
def sinkhorn_workspace(shape: list[int]) -> int: ...
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
