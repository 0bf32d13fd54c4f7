"""The Wasserstein ball: images that moving some mass over some distance makes of an image."""

from verifix.sets.wasserstein.ball import WassersteinBall
from verifix.sets.wasserstein.ground import GROUNDS, Ground
from verifix.sets.wasserstein.threat import Wasserstein

__all__ = ["GROUNDS", "Ground", "Wasserstein", "WassersteinBall"]
