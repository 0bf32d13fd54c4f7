"""Random plans on a lattice of numbers where arithmetic is exact, beside the same plans as dense matrices in numpy."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.kernels.extension import _C

Array = NDArray[Any]
Plane = tuple[int, int, int]
NO_HULL = 3


def address(x: Array | None) -> int:
    return 0 if x is None else x.ctypes.data


def entries(plane: Plane) -> int:
    return plane[0] * plane[1] * plane[2]


@dataclass
class Step:
    """A step as matrices ``(outputs, entries of the source)``, one for each source; lines and planes have none.

    Sparse steps and planes have ``places``: outputs and the entries that they read.
    """

    sources: list[int]
    matrices: list[Array]
    bias: Array
    lines: bool = False
    places: tuple[Array, Array] | None = None

    @property
    def slopes(self) -> int | None:
        """How many slopes planes have; lines have one for each entry."""
        return None if self.places is None else len(self.places[0])


@dataclass
class Case:
    """What goes into a pass, and the plan both ways."""

    dtype: Any
    plan: Any
    planes: list[Plane]
    random: random.Random
    numbers: np.random.Generator
    steps: list[Step] = field(default_factory=list)
    kept: list[Array | None] = field(default_factory=list)

    def keep(self, x: Array | None) -> int:
        """The address of an array that a plan may borrow."""
        self.kept.append(x)
        return address(x)

    def integers(self, *shape: int, low: int = -1, high: int = 1) -> Array:
        return self.numbers.integers(low, high, shape, endpoint=True).astype(self.dtype)

    def quarters(self, *shape: int) -> Array:
        return (self.numbers.integers(-4, 4, shape, endpoint=True) / 4).astype(self.dtype)

    def add(self, node: int, plane: Plane, step: Step) -> None:
        self.planes.append(plane)
        self.steps.append(step)
        assert node == len(self.steps)

    def some(self) -> int:
        last = len(self.steps)
        return last if self.random.random() < 0.6 else self.random.randrange(last + 1)

    def dense(self) -> None:
        source = self.some()
        outputs = self.random.choice((1, 3, 8, 16, 17, 33))
        weight = self.integers(outputs, entries(self.planes[source]))
        bias = self.random.choice((None, self.integers(outputs)))
        node = self.plan.dense(source=source, outputs=outputs, weight=self.keep(weight), bias=self.keep(bias))
        self.add(node, (outputs, 1, 1), Step([source], [weight], np.zeros(outputs) if bias is None else bias))

    def convolution(self) -> None:
        source = self.some()
        c, *space = self.planes[source]
        groups = self.random.choice([g for g in (1, 1, 2, 3) if c % g == 0])
        channels = groups * self.random.choice((1, 2, 8, 9, 17))
        kernel, stride, padding, dilation, out = [], [], [], [], []
        for size in space:
            k, s, d = self.random.randint(1, 4), self.random.randint(1, 3), self.random.randint(1, 2)
            reach = d * (k - 1) + 1
            p = self.random.randint(max(0, -((size - reach) // 2)), reach + 1)  # windows in the padding altogether
            for numbers, number in zip((kernel, stride, padding, dilation), (k, s, p, d), strict=True):
                numbers.append(number)
            out.append((size + 2 * p - reach) // s + 1)
        weight, plane = self.integers(channels, *kernel, c // groups), (channels, out[0], out[1])
        bias = self.random.choice((None, self.integers(channels)))
        geometry = [*kernel, *stride, *padding, *dilation, groups]
        node = self.plan.convolution(
            source=source, output=plane, geometry=geometry, weight=self.keep(weight), bias=self.keep(bias)
        )
        matrix = convolution_matrix(self.planes[source], plane, geometry, weight)
        spread = np.zeros(entries(plane)) if bias is None else np.tile(bias, out[0] * out[1])
        self.add(node, plane, Step([source], [matrix], spread))

    def scaling(self) -> None:
        source = self.some()
        plane, size = self.planes[source], entries(self.planes[source])
        scale, shift = (self.random.choice((None, self.integers(size, low=-2, high=2))) for _ in range(2))
        node = self.plan.scaling(source=source, scale=self.keep(scale), shift=self.keep(shift))
        matrix = np.eye(size) if scale is None else np.diag(scale)
        self.add(node, plane, Step([source], [matrix], np.zeros(size) if shift is None else shift))

    def sum(self) -> None:
        first = self.some()
        plane, size = self.planes[first], entries(self.planes[first])
        second = self.random.choice([i for i, other in enumerate(self.planes) if other == plane])
        factor = self.random.choice((1.0, -1.0, 2.0))
        node = self.plan.sum(first=first, second=second, factor=factor)
        self.add(node, plane, Step([first, second], [np.eye(size), factor * np.eye(size)], np.zeros(size)))

    def concatenation(self) -> None:
        first = self.some()
        fits = [i for i, other in enumerate(self.planes) if other[1:] == self.planes[first][1:]]
        sources = [first, *(self.random.choice(fits) for _ in range(self.random.randint(0, 2)))]
        _, h, w = self.planes[first]
        plane = (sum(self.planes[s][0] for s in sources), h, w)
        matrices, before = [], 0
        for s in sources:
            c = self.planes[s][0]
            picked = np.eye(plane[0])[before : before + c]
            matrices.append(np.kron(np.eye(h * w), picked.T))
            before += c
        node = self.plan.concatenation(sources=sources)
        self.add(node, plane, Step(sources, matrices, np.zeros(entries(plane))))

    def places(self, source: int) -> tuple[Plane, Array, Array, Array]:
        """A plane for the output, where the places of each entry start, whose they are, and what they read."""
        plane = self.random.choice(((4, 1, 1), (2, 2, 3), (17, 1, 2), (1, 3, 1), (2, 3, 3), self.planes[source]))
        size, inputs = entries(plane), entries(self.planes[source])
        counts = self.random.choice(
            (np.ones(size, np.int64), self.numbers.choice((0, 1, 2, 5), size), np.zeros(size, np.int64))
        )
        offsets = np.concatenate(([0], counts.cumsum()))
        outputs = np.repeat(np.arange(size), counts)
        index = self.numbers.integers(0, inputs, len(outputs))
        if self.random.random() < 0.6:
            index = np.clip(outputs * inputs // size + self.numbers.integers(-2, 3, len(outputs)), 0, inputs - 1)
        return plane, offsets, outputs, index

    def sparse(self) -> None:
        """Entries that read none, one or some of the source: neighbours, or any; also one of them twice."""
        source = self.some()
        plane, offsets, outputs, index = self.places(source)
        size, inputs = entries(plane), entries(self.planes[source])
        weight = self.integers(size, inputs)[outputs, index]
        constant = self.random.choice((None, self.integers(size)))
        node = self.plan.sparse(
            source=source, output=plane, count=len(index), offsets=address(offsets), index=address(index),
            weight=self.keep(weight), constant=self.keep(constant),
        )  # fmt: skip
        matrix = np.zeros((size, inputs))
        np.add.at(matrix, (outputs, index), weight)
        shift = np.zeros(size) if constant is None else constant
        self.add(node, plane, Step([source], [matrix], shift, places=(outputs, index)))

    def planes_over_entries(self) -> None:
        source = self.some()
        plane, offsets, outputs, index = self.places(source)
        if len(index) == 0:
            return self.sparse()
        node = self.plan.planes(
            source=source, output=plane, count=len(index), offsets=address(offsets), index=address(index)
        )
        self.add(node, plane, Step([source], [], np.zeros(0), lines=True, places=(outputs, index)))

    def lines(self) -> None:
        source = self.some()
        plane = self.planes[source]
        self.add(self.plan.lines(source=source), plane, Step([source], [], np.zeros(0), lines=True))

    def grow(self) -> None:
        self.random.choice(
            (self.dense, self.convolution, self.convolution, self.scaling, self.sum, self.concatenation, self.sparse,
             self.sparse, self.lines, self.lines, self.planes_over_entries)
        )()  # fmt: skip


def convolution_matrix(source: Plane, plane: Plane, geometry: list[int], weight: Array) -> Array:
    """Rows and columns in the order (height, width, channel), one multiply-add at a time."""
    kh, kw, sh, sw, ph, pw, dh, dw, groups = geometry
    (c, height, width), (o, out_h, out_w) = source, plane
    matrix = np.zeros((entries(plane), entries(source)))
    for h in range(out_h):
        for w in range(out_w):
            for y in range(kh):
                for x in range(kw):
                    row, column = h * sh - ph + y * dh, w * sw - pw + x * dw
                    if not (0 <= row < height and 0 <= column < width):
                        continue
                    for channel in range(o):
                        first = channel // (o // groups) * (c // groups)
                        to, start = (h * out_w + w) * o + channel, (row * width + column) * c + first
                        matrix[to, start : start + c // groups] += weight[channel, y, x]
    return matrix


def draw_case(seed: int, count: int, dtype: Any, most: int = 400, kind: type[Case] = Case, module: Any = _C) -> Case:
    source = random.Random(seed)
    plane = source.choice(((1, 1, 1), (3, 1, 1), (2, 3, 4), (1, 4, 4), (9, 2, 2), (6, 1, 5), (17, 1, 1)))
    plan = (module.PlanFloat32 if dtype == np.float32 else module.PlanFloat64)(plane)
    case = kind(dtype, plan, [plane], source, np.random.default_rng(seed))
    for _ in range(count):
        case.grow()
        if entries(case.planes[-1]) > most:
            break
    return case


@dataclass
class Request:
    """The arguments of one pass as arrays."""

    start: int
    inputs: int
    coefficients: Array | None
    positions: Array | None
    row_offsets: Array | None  # where the positions of each input begin
    sign: float
    lines: list[list[Array | None]]
    both: bool
    hull: int
    center: Array
    radius: Array

    @property
    def rows(self) -> int:
        if self.coefficients is not None:
            return int(self.coefficients.shape[1])
        assert self.positions is not None
        return len(self.positions)

    def positions_of(self, i: int) -> Array:
        assert self.positions is not None
        if self.row_offsets is None:
            return self.positions
        return self.positions[self.row_offsets[i] : self.row_offsets[i + 1]]

    def of_input(self, bounds: Array, i: int) -> Array:
        """The bounds of one input."""
        if self.row_offsets is None:
            return bounds[i]
        return bounds[self.row_offsets[i] : self.row_offsets[i + 1]]


def draw_request(case: Case, hull: int) -> Request:
    numbers, choose = case.numbers, case.random
    inputs, rows = choose.choice((1, 2, 3)), choose.choice((1, 2, 7, 8, 9, 16, 17, 40))
    start = len(case.steps) if choose.random() < 0.5 else choose.randrange(len(case.steps) + 1)
    size = entries(case.planes[start])
    parallel = choose.random() < 0.5
    lines: list[list[Array | None]] = []
    for step, plane in zip(case.steps, case.planes[1:], strict=True):
        lines.append(four_lines(case, inputs, entries(plane), step.slopes, parallel) if step.lines else [None] * 4)
    coefficients = positions = row_offsets = None
    kind = choose.choice(("all", "some", "own", "shared", "each"))

    def draw() -> Array:
        return np.sort(numbers.permutation(size)[:rows])

    if kind == "all":
        positions = np.arange(size)
    elif kind == "some":
        positions = draw()
    elif kind == "own":
        own = [draw()[: choose.choice((0, 1, 5, rows))] for _ in range(inputs)]
        positions = np.concatenate(own)
        row_offsets = np.cumsum([0, *map(len, own)])
    else:
        coefficients = case.integers(1 if kind == "shared" else inputs, rows, size)
    center = case.quarters(inputs, entries(case.planes[0]))
    radius = np.abs(case.quarters(inputs, entries(case.planes[0])))
    sign = choose.choice((1.0, -1.0))
    return Request(start, inputs, coefficients, positions, row_offsets, sign, lines, parallel, hull, center, radius)


def four_lines(case: Case, inputs: int, size: int, slopes: int | None, parallel: bool) -> list[Array | None]:
    """Slopes and offsets, many of them zero on both sides: units that are dead."""
    dead = case.numbers.random((inputs, size)) < 0.4
    first, second, low, high = (np.where(dead, 0, case.quarters(inputs, size)).astype(case.dtype) for _ in range(4))
    if slopes is not None:
        first, second = (case.quarters(inputs, slopes) for _ in range(2))
    lower_offset, upper_offset = (case.random.choice((None, side)) for side in (low, high))
    return [first, lower_offset, first.copy() if parallel else second, upper_offset]


def run(
    case: Case, request: Request, threads: int, isa: str, memory: int = 1 << 40, forms: Array | None = None
) -> tuple[Array, Array | None]:
    """Bounds; or, with a place for the forms that arrive at the input, their constants."""
    ball = {"hull": request.hull, "center": address(request.center), "radius": address(request.radius)}
    if forms is not None:
        ball = {"hull": NO_HULL, "center": 0, "radius": 0, "forms": address(forms)}
    shape = (request.inputs, request.rows) if request.row_offsets is None else (request.rows,)
    low = np.full(shape, 7, case.dtype)
    high = np.full_like(low, -7) if request.both else None
    coefficients, positions = request.coefficients, request.positions
    case.plan.run(
        start=request.start, inputs=request.inputs, rows=request.rows, coefficients=address(coefficients),
        coefficient_batch=1 if coefficients is None else len(coefficients), positions=address(positions),
        row_offsets=address(request.row_offsets), sign=request.sign,
        lines=[address(line) for four in request.lines for line in four], both=request.both,
        low=address(low), high=address(high), memory=memory, threads=threads, isa=isa, **ball,
    )  # fmt: skip
    return low, high


@dataclass
class Exact:
    """The forms at the input ``(rows, entries)`` of one input, with constants; and the sum of all absolute values."""

    form: Array
    low: Array
    high: Array
    mass: float


def spread(shape: tuple[int, int], places: tuple[Array, Array], numbers: Array) -> Array:
    """The matrix with a number at each place."""
    matrix = np.zeros(shape)
    np.add.at(matrix, places, numbers)
    return matrix


def push(case: Case, request: Request, i: int) -> Exact:
    """The backward pass by definition, for one input, in float64."""
    size = entries(case.planes[request.start])
    if request.coefficients is not None:
        rows = request.coefficients[i if len(request.coefficients) > 1 else 0].astype(np.float64)
    else:
        rows = request.sign * np.eye(size)[request.positions_of(i)]
    pending = {request.start: rows}
    weights = {request.start: np.abs(rows)}  # the same with absolute values throughout
    low, high, mass = np.zeros(len(rows)), np.zeros(len(rows)), np.zeros(len(rows))
    for node in range(request.start, 0, -1):
        if node not in pending:
            continue
        step, a, size_a = case.steps[node - 1], pending.pop(node), weights.pop(node)
        if step.lines:
            p, below, q, above = (0 if side is None else side[i].astype(np.float64) for side in request.lines[node - 1])
            plus, minus = np.maximum(a, 0), np.minimum(a, 0)
            low = low + (plus * below + minus * above).sum(1)
            high = high + (plus * above + minus * below).sum(1)
            mass = mass + (size_a * np.maximum(np.abs(below), np.abs(above))).sum(1)
            if step.places is None:
                parts, sizes = [plus * p + minus * q], [size_a * np.maximum(np.abs(p), np.abs(q))]
            else:
                to = (a.shape[1], entries(case.planes[step.sources[0]]))
                parts = [plus @ spread(to, step.places, p) + minus @ spread(to, step.places, q)]
                sizes = [size_a @ spread(to, step.places, np.maximum(np.abs(p), np.abs(q)))]
        else:
            low, high = low + a @ step.bias, high + a @ step.bias
            mass = mass + size_a @ np.abs(step.bias)
            parts = [a @ matrix for matrix in step.matrices]
            sizes = [size_a @ np.abs(matrix) for matrix in step.matrices]
        for source, part, size_s in zip(step.sources, parts, sizes, strict=True):
            pending[source] = pending.get(source, 0) + part
            weights[source] = weights.get(source, 0) + size_s
    form = pending.get(0, np.zeros((len(rows), entries(case.planes[0]))))
    mass = mass + weights.get(0, np.zeros_like(form)) @ (np.abs(request.center[i]) + request.radius[i])
    return Exact(form, low, high, float(mass.max(initial=0.0)))
