"""Projected gradient descent on moves of mass, be they plans of a window or flows along the grid."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verifix.attack.base import choice, per_input, real, whole
from verifix.attack.criteria import LOSSES, Loss
from verifix.attack.problem import Problem
from verifix.attack.wasserstein.prices import with_prices
from verifix.attack.wasserstein.view import WassersteinAttack, ball_of, ceiling, shown, useful
from verifix.sets import WassersteinBall
from verifix.sets.wasserstein.moves import Moves

SLACK = 2.0**-40
"""Of the largest pixel of an image: how far rounding may take pixels below zero, or above the side of the box."""


@dataclass(frozen=True)
class State:
    """Moves of mass in some images, feasible, and where their next projection starts.

    Attributes:
        moves: what the moves mean, and what is feasible but for bounds on pixels.
        m: the moves, float64.
        multiplier: of the budget, at the last projection, ``(n,)``.
        prices: on pixels at their bounds, ``(n, C, H, W)``.
        bounds: on the pixels of the images that the moves make, ``(n, 1, 1, 1)`` each; None if there are none.
    """

    moves: Moves
    m: Tensor
    multiplier: Tensor
    prices: Tensor
    bounds: tuple[Tensor, Tensor] | None

    @property
    def image(self) -> Tensor:
        """The points, ``(n, C, H, W)`` float64."""
        return self.moves.image(self.m)

    def select(self, index: Tensor) -> State:
        bounds = None if self.bounds is None else (self.bounds[0][index], self.bounds[1][index])
        return State(self.moves.select(index), self.m[index], self.multiplier[index], self.prices[index], bounds)

    def nearest(self, target: Tensor, rounds: int) -> State:
        """Feasible moves: the nearest to ``target``; where pixels have bounds nearly so, by so many rounds of prices,
        after which what is still beyond is taken back."""
        multiplier = self.multiplier

        def project(target: Tensor) -> Tensor:
            nonlocal multiplier
            m, multiplier = self.moves.project(target, multiplier)
            return m

        if self.bounds is None:
            return replace(self, m=project(target), multiplier=multiplier)
        low, high = self.bounds
        m, prices = with_prices(
            target,
            project,
            self.moves.image,
            self.moves.adjoint,
            self.bounds,
            self.prices,
            rounds=rounds,
            norm=self.moves.lipschitz,
        )
        slack = SLACK * brightest(self.moves.x)
        m = self.moves.take_back(m, low - slack, high + slack)
        return replace(self, m=m, multiplier=multiplier, prices=prices)


def resting(moves: Moves, ball: WassersteinBall) -> State:
    """Nothing has moved yet."""
    x, high = moves.x, ceiling(ball)
    bounds = None
    if high is not None or moves.signed:
        none = torch.zeros_like(brightest(x))
        bounds = (none, none + torch.inf if high is None else high)
    return State(moves, moves.none(), torch.zeros_like(moves.budget), torch.zeros_like(x), bounds)


def brightest(x: Tensor) -> Tensor:
    """The largest pixel of each image, ``(n, 1, 1, 1)`` float64."""
    return per_input(x.double().flatten(1).amax(1), x)


def scaled(moves: Tensor) -> Tensor:
    """Directions whose largest entry is 1; all zero where nothing can be gained."""
    largest = per_input(moves.flatten(1).abs().amax(1), moves)
    return moves / torch.where(largest > 0, largest, 1.0)


@dataclass(frozen=True, kw_only=True)
class MovesPGD(WassersteinAttack):
    """What projected gradient descent on plans and on flows have in common."""

    steps: int = 30
    step_size: float = 2.0
    final_step: float = 0.3
    restarts: int = 1
    loss: Loss = "cross-entropy"
    rounds: int = 5

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "rounds"):
            whole(name, getattr(self, name), 1)
        real("step_size", self.step_size, above=True)
        real("final_step", self.final_step)
        choice("loss", self.loss, LOSSES)

    @abstractmethod
    def rest(self, ball: WassersteinBall) -> State:
        """The moves that leave images as they are."""

    @abstractmethod
    def noise(self, state: State, noise: Tensor) -> Tensor:
        """The part of noise, of the shape of moves, that stays in the image."""

    @abstractmethod
    def direction(self, state: State, z: Tensor, slope: Tensor) -> Tensor:
        """How moves should change, given the points they lead to and the gradient there; the largest entry is 1."""

    @abstractmethod
    def feasible(self, ball: WassersteinBall, state: State) -> Tensor:
        """Whether moves prove that their points are in the sets, ``(n,)``, decided in float64."""

    def run(self, problem: Problem) -> None:
        for restart in range(self.restarts):
            who = problem.open()
            if not len(who):
                return
            ball = ball_of(problem, who)
            state = self.rest(ball)
            if restart > 0:
                noise = self.noise(state, problem.draws.uniform(who, state.m, sample=restart))
                state = state.nearest(state.m + noise * self.pixel(state), self.rounds)
            self.descend(problem, who, ball, state)

    def descend(self, problem: Problem, who: Tensor, ball: WassersteinBall, state: State) -> None:
        """One start, until every input is done or the steps are."""
        for step in range(self.steps):
            z = state.image.clamp(min=0)
            query = problem.gradient(shown(ball, z), who, self.loss, feasible=self.feasible(ball, state))
            going = torch.isin(who, problem.open(who))
            if not bool(going.any()):
                return
            who, state, ball, z = who[going], state.select(going), ball.select(going), z[going]
            length = self.step_size * (1 - (1 - self.final_step) * step / self.steps)
            move = self.direction(state, z, useful(ball, z, query.slope[going]))
            state = state.nearest(state.m + move * (length * self.pixel(state)), self.rounds)
        problem.ask(shown(ball, state.image.clamp(min=0)), who, feasible=self.feasible(ball, state))

    @staticmethod
    def pixel(state: State) -> Tensor:
        """The largest pixel of each image, in the shape of moves."""
        return brightest(state.moves.x)[:, :, None]
