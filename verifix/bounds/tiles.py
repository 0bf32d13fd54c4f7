"""Cutting work into pieces that fit a byte budget."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch

from verifix.errors import InvalidType, InvalidValue
from verifix.graph import Graph

COPIES = 6
"""How many tensors of the widest node's size a backward pass holds at once, for one row of one input."""
ROWS = 8
"""Fewer rows than this at once waste time; batches of inputs are cut before rows are."""
CACHED = 64 << 20
"""Larger tiles are slower on CPU: they leave the caches, and their pages are fresh each time."""


def check_memory(memory: int | None, device: torch.device) -> int:
    """The byte budget: as given; by default a quarter of what is free now, on CPU no more than :data:`CACHED`."""
    if memory is None:
        quarter = _free(device) // 4
        return min(quarter, CACHED) if device.type == "cpu" else quarter
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
    """What one row of one input needs in a backward pass."""
    widest = max(math.prod(shape) for shape in [graph.input_shape, *(node.shape for node in graph.nodes.values())])
    return COPIES * widest * torch.finfo(dtype).bits // 8


def row_tiles(rows: int, inputs: int, graph: Graph, dtype: torch.dtype, memory: int) -> Iterator[slice]:
    """Slices of rows such that a pass over all inputs at once stays in the budget."""
    count = max(1, memory // (bytes_per_row(graph, dtype) * max(inputs, 1)))
    for start in range(0, rows, count):
        yield slice(start, min(start + count, rows))


def input_tiles(inputs: int, graph: Graph, dtype: torch.dtype, memory: int) -> Iterator[slice]:
    """Slices of inputs such that at least :data:`ROWS` rows of all of them fit the budget."""
    count = max(1, memory // (bytes_per_row(graph, dtype) * ROWS))
    for start in range(0, inputs, count):
        yield slice(start, min(start + count, inputs))
