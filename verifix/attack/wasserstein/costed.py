"""Points with the cost of a plan that leads to them: the state of attacks that keep no plan."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from verifix.attack.base import per_input
from verifix.attack.wasserstein.moving import SLACK, brightest
from verifix.attack.wasserstein.view import ceiling
from verifix.sets import WassersteinBall


@dataclass(frozen=True)
class Costed:
    """Points of the balls, ``(n, C, H, W)`` float64, and what plans that lead to them cost, ``(n,)`` float64.

    Between two such points lies what the same mixture of their plans makes, at the same mixture of their costs: the
    costs prove the points, and no plan need be kept.
    """

    image: Tensor
    spent: Tensor

    def select(self, index: Tensor) -> Costed:
        return Costed(self.image[index], self.spent[index])

    def mixed(self, others: Costed, share: Tensor) -> Costed:
        """Points on the way to others, ``share`` of it, ``(n,)``."""
        there = per_input(share, self.image)
        image = (1 - there) * self.image + there * others.image
        return Costed(image, (1 - share) * self.spent + share * others.spent)

    def feasible(self, ball: WassersteinBall) -> Tensor:
        """Whether the cost is within the budget and no pixel is too full, ``(n,)``."""
        upper = ceiling(ball)
        good = self.spent <= ball.budget
        return (
            good
            if upper is None
            else good & (self.image <= upper + 2 * SLACK * brightest(ball.center)).flatten(1).all(1)
        )
