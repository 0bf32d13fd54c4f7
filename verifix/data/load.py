"""The data sets that a command can name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from verifix.data.cifar10 import load_cifar10
from verifix.data.dataset import Dataset
from verifix.data.digits import load_digits
from verifix.data.mnist import load_mnist
from verifix.data.npz import load_npz
from verifix.errors import InvalidValue

_WITH_PATH: dict[str, Callable[[Path, str | None], Dataset]] = {
    "mnist": load_mnist,
    "cifar10": load_cifar10,
    "npz": load_npz,
}
_FORMS = "digits, mnist:DIR, cifar10:DIR or npz:FILE, each optionally followed by :train or :test"


def load(spec: str, split: str = "test") -> Dataset:
    """Load the data set that ``spec`` names.

    ``digits`` is inside the package; ``mnist:DIR`` reads the standard IDX files, ``cifar10:DIR`` the standard binary
    batches, ``npz:FILE`` a numpy archive. Each may be followed by ``:train`` or ``:test``; where neither is named,
    ``split`` is meant (an archive then holds a single set).
    Files are read plain or compressed with gzip or xz (name plus ``.gz`` or ``.xz``).

    Raises:
        InvalidValue: an unknown word, a missing, truncated or damaged file, values out of range.

    >>> data = load("digits")
    >>> data.images.shape, data.classes
    (torch.Size([500, 1, 8, 8]), 10)
    >>> len(load("digits:train"))
    1297
    """
    rest, named = spec, None
    for word in ("train", "test"):
        if spec.endswith(f":{word}"):
            rest, named = spec[: -len(word) - 1], word
    name, colon, path = rest.partition(":")
    if name == "digits" and not colon:
        return load_digits(named or split)
    if name not in _WITH_PATH or not path:
        raise InvalidValue("data", spec, f"use {_FORMS}")
    return _WITH_PATH[name](Path(path), named if name == "npz" else named or split)
