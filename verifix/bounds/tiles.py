"""Cutting work into pieces that fit a byte budget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from verifix.bounds.method import Method
from verifix.bounds.slopes import OptimisedSlopes
from verifix.errors import InvalidType, InvalidValue
from verifix.graph import Graph
from verifix.operations import Affine, Convolution, Dense, MaxPool, Operation, Pooling, Scaling, Sum

COPIES = 6
"""How many tensors of the widest node's size a backward pass in plain torch holds at once, for one row of one input."""
KEPT = 8
"""How many numbers the engine keeps for each entry of each node, for one input: bounds, lines, magnitudes."""
COPIES_OF_WEIGHTS = 5
"""How often the compiled passes hold the weights, for a moment: as they were, packed for either direction."""
HEAP = 8 << 20
"""Bytes for what is freed and not given back, and for what libraries hold."""
COMPARED = 12
"""How many numbers max pooling takes, for a moment, for each pair of an output and an input: bounds, order, slopes."""
PLACE = 32
"""How many bytes a sparse step takes for each pair of an output and an input."""
BUNDLE = 64
"""How many bytes a compiled backward pass holds for each entry of each node, at the least."""
TRAINED = 4
"""How many numbers autograd keeps, at the peak, for each entry of each node and each row."""
TRAINED_WEIGHTS = 4
"""How often training holds the weights: themselves, gradients, and two moments of an optimiser."""
ROWS = 8
"""Fewer rows than this at once waste time; batches of inputs are cut before rows are."""
TILE = {"cpu": 64 << 20, "cuda": 1 << 30}
"""Larger tiles are no faster; on CPU they are slower: they leave the caches, and their pages are fresh each time."""


RECORDED = 8 << 20
"""Bytes of coefficients on the widest node that a pass holds at once where gradients are recorded, on CPU."""


@dataclass(frozen=True)
class Budget:
    """What a byte budget leaves: bytes for the rows of a pass, and how many inputs at once (of each dtype)."""

    passes: int
    inputs: dict[torch.dtype, int]

    def tiles(self, inputs: int, dtype: torch.dtype) -> Iterator[slice]:
        """Slices of inputs that are worked on together."""
        for start in range(0, inputs, self.inputs[dtype]):
            yield slice(start, min(start + self.inputs[dtype], inputs))


def budget(
    graph: Graph, dtypes: Sequence[torch.dtype], device: torch.device, memory: int | None = None, rows: int = 0
) -> Budget:
    """How to work on a network within a byte budget: as given; by default a quarter of what is free now.

    Half of what the weights leave is for what is kept of each input, half for the rows of a pass.

    Args:
        rows: how many rows are pushed forward for every input (:attr:`Estimator.rows_at_once`).

    Raises:
        InvalidValue: a budget that one input and one row at a time would exceed.
    """
    total = check_memory(memory, device)
    room = (total - HEAP - sum(_bytes_of_weights(graph, dtype) for dtype in dtypes)) // 2
    if room < _least_room(graph, dtypes, rows):
        needed = least_memory(graph, dtypes, rows)
        raise InvalidValue("memory", total, f"this network needs at least {needed} bytes, one input at a time")
    tile = min(room, _tile(device))
    return Budget(
        room,
        {
            dtype: max(1, tile // max(_bytes_of_input(graph, dtype, rows), ROWS * bytes_per_row(graph, dtype)))
            for dtype in dtypes
        },
    )


def least_memory(graph: Graph, dtypes: Sequence[torch.dtype], rows: int = 0) -> int:
    """The smallest byte budget that :func:`budget` accepts."""
    return HEAP + sum(_bytes_of_weights(graph, dtype) for dtype in dtypes) + 2 * _least_room(graph, dtypes, rows)


def _least_room(graph: Graph, dtypes: Sequence[torch.dtype], rows: int) -> int:
    return max(max(_bytes_of_input(graph, dtype, rows), _bytes_of_row(graph, dtype)) for dtype in dtypes)


def rows_of(graph: Graph, methods: Sequence[Method]) -> int:
    """How many rows the methods push through a network for every input, where gradients are recorded."""
    hidden = dict.fromkeys(node.inputs[0] for node in graph.nonlinear(graph.output))
    entries = sum(math.prod(graph.shape_of(name)) for name in hidden)
    rows = math.prod(graph.shape)
    for method in methods:
        if not method.estimator.exact:
            rows += (
                2 * method.estimator.rows_at_once
                if method.estimator.kind == "gaussian"
                else method.estimator.rows_at_once
            )
        elif isinstance(method.slopes, OptimisedSlopes):
            # each restart is kept; where each row has slopes of its own, so are its lines
            rows += math.prod(graph.shape) * (method.slopes.restarts * (3 if method.slopes.slopes == "own" else 1) - 1)
            rows += entries if method.intermediate != "interval" else 0
        elif method.intermediate != "interval":
            rows += entries
    return rows


def inputs_per_step(
    graph: Graph, rows: int, dtype: torch.dtype, device: torch.device, memory: int | None = None
) -> int:
    """How many inputs of a training step can be worked on together, forwards and backwards, within a byte budget.

    Args:
        rows: how many rows are pushed through the network for every input.

    Raises:
        InvalidValue: a budget that one input would exceed.
    """
    total = check_memory(memory, device)
    room = (
        total - HEAP - TRAINED_WEIGHTS * sum(_numbers(node.operation) for node in graph.nodes.values()) * _size(dtype)
    )
    needed = _bytes_recorded(graph, rows, dtype)
    if room < needed:
        raise InvalidValue(
            "memory", total, f"a training step needs at least {total - room + needed} bytes for one input"
        )
    return room // needed


def inputs_recorded(graph: Graph, rows: int, dtype: torch.dtype, memory: int) -> int:
    """How many inputs to take together in a pass of so many rows for which autograd keeps what it needs; at least 1."""
    lines = KEPT * _entries(graph) * _size(dtype)  # of each input, made for its slopes
    return max(1, memory // (_bytes_recorded(graph, rows, dtype) + lines))


def rows_recorded(graph: Graph, inputs: int, dtype: torch.dtype, memory: int) -> int:
    """How many rows of so many inputs to take together in such a pass; at least :data:`ROWS`."""
    return max(ROWS, ROWS * memory // (inputs * _bytes_recorded(graph, ROWS, dtype)))


def _bytes_recorded(graph: Graph, rows: int, dtype: torch.dtype) -> int:
    copied = [node for node in graph.nodes.values() if not getattr(node.operation, "reshape_only", False)]
    entries = math.prod(graph.input_shape) + sum(math.prod(node.shape) for node in copied)
    return TRAINED * max(rows, ROWS) * entries * _size(dtype)


def _bytes_of_weights(graph: Graph, dtype: torch.dtype) -> int:
    operations = [node.operation for node in graph.nodes.values()]
    numbers = sum(_numbers(operation) for operation in operations)
    places = sum(_places(operation) for operation in operations)
    return COPIES_OF_WEIGHTS * numbers * _size(dtype) + PLACE * places + 16 * _entries(graph)  # and lists of entries


def _numbers(operation: Operation) -> int:
    """How many constants an operation has, about."""
    if isinstance(operation, Dense | Convolution):
        return operation.weight().numel()
    return math.prod(operation.shape) if isinstance(operation, Affine) else 0


def _places(operation: Operation) -> int:
    """How many pairs of an output and an input a sparse step lists, or max pooling compares."""
    if isinstance(operation, MaxPool):
        return operation.windows.numel()
    if isinstance(operation, Pooling):
        others = operation.shape[: len(operation.shape) - len(operation.matrices)]
        return math.prod(others) * math.prod(int((matrix != 0).sum()) for matrix in operation.matrices)
    if isinstance(operation, Dense | Convolution | Scaling | Sum) or not isinstance(operation, Affine):
        return 0
    return max(math.prod(operation.shape), *(math.prod(shape) for shape in operation.inputs))


def _bytes_of_input(graph: Graph, dtype: torch.dtype, rows: int = 0) -> int:
    compared = sum(_places(node.operation) for node in graph.nodes.values() if isinstance(node.operation, MaxPool))
    return (KEPT * _entries(graph) + COMPARED * compared) * _size(dtype) + rows * bytes_per_row(graph, dtype)


def _bytes_of_row(graph: Graph, dtype: torch.dtype) -> int:
    """What the smallest tile of a backward pass needs, compiled or not."""
    return max(BUNDLE * _entries(graph), bytes_per_row(graph, dtype))


def _entries(graph: Graph) -> int:
    return sum(math.prod(shape) for shape in [graph.input_shape, *(node.shape for node in graph.nodes.values())])


def _size(dtype: torch.dtype) -> int:
    return torch.finfo(dtype).bits // 8


def bytes_of_passes(memory: int | None, device: torch.device) -> int:
    """What an engine may use for the rows of a pass: as given, or enough for a few threads."""
    return check_memory(4 * _tile(device) if memory is None else memory, device)


def _tile(device: torch.device) -> int:
    return TILE.get(device.type, TILE["cpu"])


def check_memory(memory: int | None, device: torch.device) -> int:
    """The byte budget: as given; by default a quarter of what is free now."""
    if memory is None:
        return _free(device) // 4
    if isinstance(memory, bool) or not isinstance(memory, int):
        raise InvalidType("memory", memory, "a whole number of bytes")
    if memory <= 0:
        raise InvalidValue("memory", memory, "must be a positive number of bytes")
    return memory


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 4 << 30


def bytes_per_row(graph: Graph, dtype: torch.dtype) -> int:
    """What one row of one input needs in a backward pass in plain torch."""
    widest = max(math.prod(shape) for shape in [graph.input_shape, *(node.shape for node in graph.nodes.values())])
    return COPIES * widest * _size(dtype)


def inputs_in_caches(graph: Graph, rows: Tensor) -> int:
    """How many inputs a pass that records gradients takes at once, with rows ``(n or 1, r, ...)`` for each."""
    if rows.device.type != "cpu":
        return 1 << 62
    widest = max(math.prod(shape) for shape in [graph.input_shape, *(node.shape for node in graph.nodes.values())])
    return max(1, RECORDED // max(1, widest * rows.shape[1] * rows.element_size()))


def row_tiles(
    rows: int, inputs: int, graph: Graph, dtype: torch.dtype, memory: int, device: torch.device
) -> Iterator[slice]:
    """Slices of rows such that a pass in plain torch over all inputs at once stays in the budget and in a tile."""
    count = max(1, min(memory, _tile(device)) // (bytes_per_row(graph, dtype) * max(inputs, 1)))
    for start in range(0, rows, count):
        yield slice(start, min(start + count, rows))
