"""Where an input may be: lp balls, with and without a box, arbitrary boxes, Wasserstein balls, and unions."""

from verifix.sets.ball import Ball, LpBall
from verifix.sets.base import InputSet
from verifix.sets.box import Box
from verifix.sets.union import Union, UnionSet
from verifix.sets.wasserstein import Wasserstein, WassersteinBall

__all__ = ["Ball", "Box", "InputSet", "LpBall", "Union", "UnionSet", "Wasserstein", "WassersteinBall"]
