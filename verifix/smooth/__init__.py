"""Randomized smoothing: classifiers that answer by a vote under noise, and radii that a vote certifies."""

from __future__ import annotations

from verifix.smooth.certify import Certificates, Predictions, Question, SmoothedClassifier
from verifix.smooth.clopper_pearson import clopper_pearson_lower, clopper_pearson_upper
from verifix.smooth.rules import certify_counts
from verifix.smooth.run import predict_run, smooth_run

__all__ = [
    "Certificates",
    "Predictions",
    "Question",
    "SmoothedClassifier",
    "certify_counts",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "predict_run",
    "smooth_run",
]
