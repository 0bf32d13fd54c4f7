"""Locally biased smoothing: the decision boundary moves as the nearest of a few reserved points says.

Anderson and Sojoudi, "Certified Adversarial Robustness via Locally Biased Randomized Smoothing" (2022). No noise is
drawn and nothing is estimated: radii are in closed form. ``docs/biased-smoothing.md`` has the theorems with proofs.
"""

from __future__ import annotations

from verifix.smooth.biased.differentiable import Base, BiasedDifferentiable, SmoothFunction
from verifix.smooth.biased.linear import BiasedLinear
from verifix.smooth.biased.multiclass import BiasedLogits, BiasedVerdicts
from verifix.smooth.biased.network import SmoothNetwork
from verifix.smooth.biased.oracle import NearestNeighbour, Neighbours
from verifix.smooth.biased.radii import BiasedRadii

__all__ = [
    "Base",
    "BiasedDifferentiable",
    "BiasedLinear",
    "BiasedLogits",
    "BiasedRadii",
    "BiasedVerdicts",
    "NearestNeighbour",
    "Neighbours",
    "SmoothFunction",
    "SmoothNetwork",
]
