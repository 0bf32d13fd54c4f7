"""CIFAR-10 in its standard binary records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from verifix.data.dataset import Dataset
from verifix.data.files import find, find_optional, read, require_size
from verifix.errors import InvalidValue

_RECORD = 1 + 3 * 32 * 32
_RECORDS = 10_000
_BATCHES = 5


def load_cifar10(folder: Path, split: str | None = None) -> Dataset:
    """The records of ``test_batch.bin`` or ``data_batch_1..5.bin``, as ``(n, 3, 32, 32)`` in [0, 1].

    A record is a label byte and 3,072 pixel bytes, plane by plane; a file holds 10,000 of them. Of the five training
    files those that are there are taken, and ``note`` says how many.

    Raises:
        InvalidValue: a missing, truncated or damaged file, or labels above 9.
    """
    split = split or "test"
    paths, note = [find(folder, "test_batch.bin")] if split == "test" else _training_files(folder), ""
    if split == "train" and len(paths) < _BATCHES:
        note = f"{len(paths)} of {_BATCHES} training files are there: {_RECORDS * len(paths)} of 50000 images"
    records = np.concatenate([_read_batch(path) for path in paths])
    pixels = torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32))
    return Dataset("cifar10", split, pixels.float() / 255, torch.from_numpy(records[:, 0].astype(np.int64)), 10, note)


def _training_files(folder: Path) -> list[Path]:
    names = [f"data_batch_{number}.bin" for number in range(1, _BATCHES + 1)]
    found = [path for name in names if (path := find_optional(folder, name)) is not None]
    return found or [find(folder, names[0])]  # which says what is missing


def _read_batch(path: Path) -> np.ndarray:
    content, problem = read(path)
    require_size(path, content, problem, _RECORDS * _RECORD)
    records = np.frombuffer(content, np.uint8).reshape(_RECORDS, _RECORD)
    wrong = np.flatnonzero(records[:, 0] > 9)
    if wrong.size:
        index = int(wrong[0])
        remedy = f"{wrong.size} labels are out of range 0 to 9, first at index {index}: {records[index, 0]}"
        raise InvalidValue("data", path, remedy)
    return records
