"""Where an input may be: lp balls, with and without a box, and arbitrary boxes."""

from verifix.sets.ball import Ball, LpBall
from verifix.sets.base import InputSet
from verifix.sets.box import Box

__all__ = ["Ball", "Box", "InputSet", "LpBall"]
