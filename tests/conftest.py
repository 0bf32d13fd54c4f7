"""Fixtures that all tests share: seeds, and the data and weights that only some machines have."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

_SHARED = Path(__file__).resolve().parents[2] / "shared"

hypothesis.settings.register_profile("verifix", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("verifix")


@pytest.fixture(autouse=True)
def _same_seeds() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (for libraries that draw from it)


def _folder(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: set {variable} to the folder")
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder that holds ``mnist/`` and ``cifar-10-batches-bin/``."""
    return _folder("VERIFIX_DATA", _SHARED / "data")


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """The folder that holds the published weights."""
    return _folder("VERIFIX_MODELS", _SHARED / "models")
