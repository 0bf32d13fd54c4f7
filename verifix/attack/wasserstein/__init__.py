"""Attacks that move mass: on Wasserstein balls."""

from verifix.attack.wasserstein.flow_descent import FlowPGD
from verifix.attack.wasserstein.frank_wolfe import FrankWolfe
from verifix.attack.wasserstein.plan_descent import PlanPGD
from verifix.attack.wasserstein.sinkhorn_descent import SinkhornPGD

__all__ = ["FlowPGD", "FrankWolfe", "PlanPGD", "SinkhornPGD"]
