"""Randomized smoothing: classifiers that answer by a vote under noise, and radii that a vote certifies."""

from __future__ import annotations

from verifix.smooth.clopper_pearson import clopper_pearson_lower, clopper_pearson_upper
from verifix.smooth.rules import certify_counts

__all__ = ["certify_counts", "clopper_pearson_lower", "clopper_pearson_upper"]
