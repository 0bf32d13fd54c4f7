"""The bound engine: where pre-activation bounds come from, which lines are used, how sums are evaluated."""

from verifix.bounds.bounds import bounds, intersect
from verifix.bounds.confidence import Confidence
from verifix.bounds.engine import Engine
from verifix.bounds.estimator import Estimator
from verifix.bounds.linear_program import linear_program
from verifix.bounds.method import NAMED, Method, MethodLike, parse_method

__all__ = [
    "NAMED",
    "Confidence",
    "Engine",
    "Estimator",
    "Method",
    "MethodLike",
    "bounds",
    "intersect",
    "linear_program",
    "parse_method",
]
