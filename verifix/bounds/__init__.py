"""The bound engine: where pre-activation bounds come from, which lines are used, how sums are evaluated."""

from verifix.bounds.bounds import bounds, intersect
from verifix.bounds.confidence import Confidence
from verifix.bounds.engine import Engine
from verifix.bounds.estimates import RelativeErrors, relative_errors
from verifix.bounds.estimator import Estimator
from verifix.bounds.method import NAMED, Method, MethodLike, parse_method
from verifix.bounds.polytope import Polygon, outer_polygons
from verifix.bounds.slopes import OptimisedSlopes, RandomSlopes
from verifix.bounds.units import UnitStates, unit_states

__all__ = [
    "NAMED",
    "Confidence",
    "Engine",
    "Estimator",
    "Method",
    "MethodLike",
    "OptimisedSlopes",
    "Polygon",
    "RandomSlopes",
    "RelativeErrors",
    "UnitStates",
    "bounds",
    "intersect",
    "outer_polygons",
    "parse_method",
    "relative_errors",
    "unit_states",
]
