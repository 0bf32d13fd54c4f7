"""Fixtures of the kernels' tests."""

from __future__ import annotations

import pytest
import torch  # noqa: F401  (before the extension)

from verifix import _C


@pytest.fixture(params=["base", "avx2", "avx512"])
def isa(request: pytest.FixtureRequest) -> str:
    """Each instruction set in turn, where this processor has it."""
    name: str = request.param
    if name not in _C.config()["isas"]:
        pytest.skip(f"this processor has no {name}")
    return name
