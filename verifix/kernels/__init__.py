"""Operators with native code behind them.

Each operator has a contract (``torch.library``: its shapes, its gradient), a reference in plain torch that is also the
fallback, and a CPU implementation, most a CUDA one. All implementations of an operator give the same bits; of
``pull_lines``, ``strided_adjoint`` and ``sinkhorn`` they agree to rounding.
"""

from __future__ import annotations

from verifix.kernels.abs_median import abs_median
from verifix.kernels.clopper_pearson import clopper_pearson

__all__ = ["abs_median", "clopper_pearson"]
