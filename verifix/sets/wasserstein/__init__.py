"""The Wasserstein ball: images that moving some mass over some distance makes of an image."""

from verifix.sets.wasserstein.ball import WassersteinBall
from verifix.sets.wasserstein.ground import GROUNDS, Ground
from verifix.sets.wasserstein.plans import PlanReport, check_plan
from verifix.sets.wasserstein.projection import Projection, nearest
from verifix.sets.wasserstein.threat import Wasserstein

__all__ = [
    "GROUNDS",
    "Ground",
    "PlanReport",
    "Projection",
    "Wasserstein",
    "WassersteinBall",
    "check_plan",
    "nearest",
]
