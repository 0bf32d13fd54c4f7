"""How every picture looks, and how it reaches the disk: with its numbers beside it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from verifix.files import write_bytes

if TYPE_CHECKING:  # matplotlib is loaded where a picture is drawn
    from matplotlib.figure import Figure

# of Okabe and Ito: told apart by colour-blind readers too
BLUE, ORANGE, GREEN, RED, GRAY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999"
CLASSES = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", RED, "#F0E442", GRAY)
MARKERS = "os^DvP*X"

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches, drawn without a display."""
    # Figure itself, not pyplot: no global state, no display
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(path: Path, figure: Figure, numbers: object) -> None:
    """Write a picture, and what it was drawn from as JSON of the same name; each file is whole or not there.

    Args:
        path: of the picture; the suffix chooses the format.
        figure: from one of the functions of this package.
        numbers: dataclasses, mappings, sequences, arrays, numbers and text.
    """
    # on one line: indented, a grid of numbers would be mostly blanks
    text = json.dumps(plain(numbers), allow_nan=False) + "\n"
    write_bytes(path.with_suffix(".json"), text.encode())
    write_figure(path, figure)


def write_figure(path: Path, figure: Figure) -> None:
    """Write a picture alone, whole or not at all; the suffix chooses the format."""
    stream = io.BytesIO()
    figure.savefig(stream, format=path.suffix[1:], dpi=150)
    write_bytes(path, stream.getvalue())


def plain(value: object) -> Any:
    """The same in JSON values.

    >>> plain({"corners": np.eye(2), "of": (1, "two")})
    {'corners': [[1.0, 0.0], [0.0, 1.0]], 'of': [1, 'two']}
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, (np.ndarray, np.generic, Tensor)):
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
