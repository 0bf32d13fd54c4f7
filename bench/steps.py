"""Training steps, ours and a peer's: forward and backward, without the optimiser."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.cases import Case
from verifix.bounds.tiles import inputs_per_step, rows_of
from verifix.train import TrainSettings
from verifix.train.batch_norm import CleanStatistics
from verifix.train.objective import Objective

PROJECTIONS = 50


class Step:
    """One step of :func:`verifix.train.train` for the ball of a case, in parts where the byte budget asks for them.

    Args:
        method: as of :class:`verifix.train.TrainSettings`; ``none`` is natural training.
        estimator: of the norms, where the method is ``cap``.
    """

    def __init__(self, case: Case, method: str = "cap", *, estimator: str = f"median:{PROJECTIONS}") -> None:
        settings: dict[str, Any] = {} if method == "none" else {"eps": case.eps, "box": case.box}
        if method == "cap":
            settings["estimator"] = estimator
        self.settings = TrainSettings(method=method, **settings)
        self.case, clean = case, CleanStatistics(None)
        self.objective = Objective(case.model, case.graph, self.settings, clean, every_parameter=False)
        rows = rows_of(case.graph, self.settings.methods())
        self.together = inputs_per_step(case.graph, rows, case.x.dtype, case.x.device, self.settings.memory)

    def __call__(self, x: Tensor, y: Tensor, seed: int) -> Tensor:
        """The loss; gradients are left in the parameters."""
        self.objective.zero_grad()
        total = x.new_zeros(())
        for own_x, own_y in zip(x.split(self.together), y.split(self.together), strict=True):
            loss, _ = self.objective(own_x, own_y, self.case.eps, seed)
            (loss / len(x)).backward()
            total += loss.detach() / len(x)
        return total


def convex_adversarial_step(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """The same by convex_adversarial with ``proj=50``."""
    peer = pytest.importorskip("convex_adversarial", reason="convex_adversarial is not installed (extra `bench`)")
    model.zero_grad()
    loss, _ = peer.robust_loss(model, eps, x, y, proj=PROJECTIONS, norm_type="l1_median", bounded_input=False)
    loss.backward()
    detached: Tensor = loss.detach()
    return detached


def two_convolutions(filters: int) -> nn.Sequential:
    """MNIST-sized, with ``784 (2 + filters)`` hidden units behind ReLUs, and as many weights as units, about."""
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, filters, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(784 * filters, 10),
    )  # fmt: skip


def mean_loss(step: object, draws: int = 8) -> float:
    """The mean over draws of a step's loss."""
    return float(torch.stack([step(seed) for seed in range(draws)]).mean())  # type: ignore[operator]
