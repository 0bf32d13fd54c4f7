"""MNIST, and every data set in its IDX files (Fashion-MNIST, KMNIST)."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch

from verifix.data.dataset import Dataset
from verifix.data.files import find, read, require_size
from verifix.errors import InvalidValue

_PREFIX = {"train": "train", "test": "t10k"}
_IMAGES_MAGIC = 0x803
_LABELS_MAGIC = 0x801


def load_mnist(folder: Path, split: str | None = None) -> Dataset:
    """The images and labels of ``{train,t10k}-{images-idx3,labels-idx1}-ubyte``, ``(n, 1, rows, columns)`` in [0, 1].

    Raises:
        InvalidValue: a missing, truncated or damaged file, a wrong magic number, labels above 9, counts that differ.
    """
    split = split or "test"
    images_path = find(folder, f"{_PREFIX[split]}-images-idx3-ubyte")
    labels_path = find(folder, f"{_PREFIX[split]}-labels-idx1-ubyte")
    images = _read_idx(images_path, _IMAGES_MAGIC, axes=3)
    labels = _read_idx(labels_path, _LABELS_MAGIC, axes=1)
    if len(images) != len(labels):
        raise InvalidValue("data", labels_path, f"holds {len(labels)} labels for {len(images)} images")
    if labels.max(initial=0) > 9:
        index = int(np.flatnonzero(labels > 9)[0])
        remedy = f"{int((labels > 9).sum())} labels are out of range 0 to 9, first at index {index}: {labels[index]}"
        raise InvalidValue("data", labels_path, remedy)
    pixels = torch.from_numpy(images.copy()).unsqueeze(1)
    return Dataset("mnist", split, pixels.float() / 255, torch.from_numpy(labels.astype(np.int64)), classes=10)


def _read_idx(path: Path, magic: int, axes: int) -> np.ndarray:
    """The unsigned bytes of one IDX file: a big-endian magic number, one 32-bit size per axis, then the values."""
    content, problem = read(path)
    header = 4 * (1 + axes)
    if len(content) >= 4 and (found := struct.unpack(">I", content[:4])[0]) != magic:
        raise InvalidValue(
            "data", path, f"magic number {found:#010x}, expected {magic:#010x}: not this kind of IDX file"
        )
    if len(content) < header:
        require_size(path, content, problem, header)
    shape = struct.unpack(f">{axes}I", content[4:header])
    count = 1
    for size in shape:
        count *= size
    require_size(path, content, problem, header + count)
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
