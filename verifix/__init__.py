"""verifix: certify, train, attack and smooth neural networks, with guarantees that hold.

>>> import torch, verifix as vx
>>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
>>> x = torch.rand(5, 4)
>>> result = vx.certify(model, x, model(x).argmax(1), vx.Ball("linf", eps=0.0, box=(0, 1)), method="cap")
>>> result.verdicts.tolist()
['verified', 'verified', 'verified', 'verified', 'verified']
"""

from __future__ import annotations

import torch as _torch  # noqa: F401  (first: its libgomp is the one that our extension shares)

from verifix.bounds import Confidence, Estimator, Method, bounds
from verifix.certify import (
    Cascade,
    Detection,
    Margins,
    Radii,
    Result,
    Rows,
    Verdict,
    certify,
    detect,
    radius,
)
from verifix.graph import Graph, capture
from verifix.sets import Ball, Box, InputSet, Wasserstein

__all__ = [
    "Ball",
    "Box",
    "Cascade",
    "Confidence",
    "Detection",
    "Estimator",
    "Graph",
    "InputSet",
    "Margins",
    "Method",
    "Radii",
    "Result",
    "Rows",
    "Verdict",
    "Wasserstein",
    "bounds",
    "capture",
    "certify",
    "detect",
    "radius",
]
