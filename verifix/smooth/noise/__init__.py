"""Families of noise: how each is drawn, and what it certifies. One file per family."""

from __future__ import annotations

from verifix.smooth.noise.ablation import Ablation
from verifix.smooth.noise.anisotropic import AnisotropicGaussian
from verifix.smooth.noise.base import Noise, Purpose, Samples
from verifix.smooth.noise.flow import Flow
from verifix.smooth.noise.gaussian import Gaussian
from verifix.smooth.noise.keep_or_replace import KeepOrReplace
from verifix.smooth.noise.laplace import Laplace
from verifix.smooth.noise.registry import FAMILIES, make_noise, noise_from_json
from verifix.smooth.noise.splitting import Splitting
from verifix.smooth.noise.uniform import Uniform
from verifix.smooth.noise.uniform_ball import UniformBall

__all__ = [
    "FAMILIES",
    "Ablation",
    "AnisotropicGaussian",
    "Flow",
    "Gaussian",
    "KeepOrReplace",
    "Laplace",
    "Noise",
    "Purpose",
    "Samples",
    "Splitting",
    "Uniform",
    "UniformBall",
    "make_noise",
    "noise_from_json",
]
