"""Operators with native code behind them.

Each operator has a contract (``torch.library``: its shapes, its gradient), a reference in plain torch that is also the
fallback, and a CPU and a CUDA implementation. All implementations of an operator give the same bits.
"""

from __future__ import annotations

from verifix.kernels.abs_median import abs_median
from verifix.kernels.clopper_pearson import clopper_pearson

__all__ = ["abs_median", "clopper_pearson"]
