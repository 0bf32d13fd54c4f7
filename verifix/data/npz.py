"""Your own data, in a numpy archive."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from verifix.data.dataset import Dataset
from verifix.data.files import read
from verifix.errors import InvalidValue


def load_npz(path: Path, split: str | None = None) -> Dataset:
    """The arrays ``x`` (floating point, ``(n, ...)``) and ``y`` (whole numbers, ``(n,)``) of a ``.npz`` file.

    With a split named, they are ``x_train`` and ``y_train``, or ``x_test`` and ``y_test``. Values are taken as they
    are; float64 stays float64. There are as many classes as the largest label needs.

    Raises:
        InvalidValue: not a numpy archive, an array missing or of the wrong kind, lengths that differ,
            a negative label, NaN.
    """
    suffix = f"_{split}" if split else ""
    x, y = _read_arrays(path, f"x{suffix}", f"y{suffix}")
    if x.dtype.kind != "f" or x.ndim < 2:
        remedy = (
            f"x{suffix} is {x.dtype} of shape {x.shape}: store floating-point inputs of shape (n, ...), in raw units"
        )
        raise InvalidValue("data", path, remedy)
    if y.dtype.kind not in "iu" or y.ndim != 1:
        raise InvalidValue(
            "data", path, f"y{suffix} is {y.dtype} of shape {y.shape}: store whole numbers of shape (n,)"
        )
    if len(x) != len(y):
        raise InvalidValue("data", path, f"holds {len(x)} inputs and {len(y)} labels")
    images = torch.from_numpy(x.astype(np.float64 if x.dtype.itemsize >= 8 else np.float32))
    labels = torch.from_numpy(y.astype(np.int64))
    return Dataset("npz", split or "test", images, labels, classes=int(y.max(initial=0)) + 1)


def _read_arrays(path: Path, *keys: str) -> list[np.ndarray]:
    content, problem = read(path)
    if problem:
        raise InvalidValue("data", path, f"damaged after {len(content)} bytes: {problem.rstrip('.')}")
    try:
        archive = np.load(io.BytesIO(content), allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise InvalidValue("data", path, "is a single array: store x and y with numpy.savez")
        missing = [key for key in keys if key not in archive.files]
        if missing:
            remedy = f"has no array {' and no array '.join(missing)}; it has {', '.join(archive.files) or 'none'}"
            raise InvalidValue("data", path, remedy)
        return [archive[key] for key in keys]
    except InvalidValue:
        raise
    except (ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InvalidValue("data", path, f"not a whole numpy archive ({len(content)} bytes): {error}") from None
