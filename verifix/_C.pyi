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
    threads: int,
    isa: str,
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
    threads: int,
    isa: str,
) -> None: ...
def relu_lines(*, count: int, arrays: list[int], dtype: str, threads: int, isa: str) -> None: ...
def relu_lines_gradient(*, count: int, arrays: list[int], dtype: str, threads: int, isa: str) -> None: ...
def narrow_adjoint(
    *, shape: tuple[int, ...], rows: int, weight: int, result: int, dtype: str, threads: int, isa: str
) -> None: ...
def narrow_adjoint_gradient(
    *,
    shape: tuple[int, ...],
    rows: int,
    weight: int,
    of_result: int,
    of_rows: int,
    of_weight: int,
    dtype: str,
    threads: int,
    isa: str,
) -> None: ...

class NoiseNames:
    """Which samples: of the inputs with these numbers, with d coordinates each."""

    def __init__(self, *, inputs: int, n: int, start: int, count: int, d: int, seed: int, purpose: int) -> None: ...

def add_noise(
    *, names: NoiseNames, law: str, x: int, scales: int, scale: float, out: int, dtype: str, threads: int, isa: str
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
    threads: int,
    isa: str,
) -> None: ...
def keep_or_replace(
    *, names: NoiseNames, threshold: int, positions: int, levels: int, out: int, dtype: str, threads: int, isa: str
) -> None: ...
def random_words(*, names: NoiseNames, out: int, threads: int, isa: str) -> None: ...
def add_votes(*, logits: int, counts: int, n: int, count: int, classes: int, dtype: str, threads: int) -> None: ...
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
    threads: int,
    isa: str,
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
    threads: int,
    isa: str,
) -> None: ...
def clopper_pearson(
    *, successes: int, trials: int, level: int, lower: int, failure: int, count: int, threads: int
) -> None: ...
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
    threads: int,
    isa: str,
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
    threads: int,
    isa: str,
) -> None: ...
def plan_image(
    *, plan: int, image: int, shape: tuple[int, int, int, int, int], dtype: str, threads: int, isa: str
) -> None: ...
def plan_gradient(
    *, image: int, plan: int, shape: tuple[int, int, int, int, int], dtype: str, threads: int, isa: str
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
    threads: int,
    isa: str,
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
    threads: int,
    isa: str,
) -> None: ...
def config() -> Config: ...

class _Steps:
    """A network as a flat list of steps; addresses are of contiguous memory."""

    def __init__(self, input: tuple[int, int, int]) -> None: ...
    def dense(self, *, source: int, outputs: int, weight: int, bias: int) -> int: ...
    def convolution(
        self, *, source: int, output: tuple[int, int, int], geometry: list[int], weight: int, bias: int
    ) -> int: ...
    def scaling(self, *, source: int, scale: int, shift: int, shift_size: int = 0) -> int: ...
    def sum(self, *, first: int, second: int, factor: float) -> int: ...
    def concatenation(self, *, sources: list[int]) -> int: ...
    def sparse(
        self,
        *,
        source: int,
        output: tuple[int, int, int],
        count: int,
        offsets: int,
        index: int,
        weight: int,
        constant: int,
    ) -> int: ...
    def lines(self, *, source: int) -> int: ...
    def planes(self, *, source: int, output: tuple[int, int, int], count: int, offsets: int, index: int) -> int: ...

class _Plan(_Steps):
    def run(
        self,
        *,
        start: int,
        inputs: int,
        rows: int,
        coefficients: int,
        coefficient_batch: int,
        positions: int,
        row_offsets: int,
        sign: float,
        lines: list[int],
        both: bool,
        hull: int,
        center: int,
        radius: int,
        forms: int = 0,
        low: int,
        high: int,
        memory: int,
        threads: int,
        isa: str,
    ) -> None: ...
    def forwards(self, *, node: int) -> bool: ...
    def forward(
        self,
        *,
        node: int,
        inputs: int,
        lowers: list[int],
        uppers: list[int],
        magnitudes: list[int],
        lower: int,
        upper: int,
        magnitude: int,
        quantum: float,
        threads: int,
        isa: str,
    ) -> None: ...

class PlanFloat32(_Plan): ...
class PlanFloat64(_Plan): ...
