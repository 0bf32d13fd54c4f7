"""Data sets as tensors: ``load("mnist:DIR")`` and its neighbours."""

from __future__ import annotations

from verifix.data.dataset import Dataset
from verifix.data.load import load

__all__ = ["Dataset", "load"]
