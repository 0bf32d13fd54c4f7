"""Training under noise as the equations write it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.train.examples import digits, settings
from verifix.kernels.noise import add_noise
from verifix.smooth.noise.base import Purpose
from verifix.train import TrainSettings


def noisy(method: str = "adre", **changes: Any) -> TrainSettings:
    usual: dict[str, Any] = {"eps": 0.0, "method": method, "sigma": 0.25, "noises": 3, "optimiser": "sgd", "lr": 0.1}
    if method in ("adre-adv", "smoothadv"):
        usual |= {"attack_eps": 0.5, "attack_warmup": 1}
    return settings(**{**usual, **changes})


def batch(n: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    data = digits(n).to(torch.float64)
    return data.images, data.labels, torch.arange(n)


def probabilities(model: nn.Module, x: Tensor, inputs: Tensor, how: TrainSettings, epoch: int) -> NDArray[np.float64]:
    """The softmax of every noisy copy ``(n, k, classes)``, from noise that is drawn copy by copy."""
    k, rows = how.noises or 0, []
    for point, number in zip(x, inputs, strict=True):
        for sample in range(epoch * k, epoch * k + k):
            copy = add_noise(
                point[None], number[None], law="gaussian", scale=how.sigma or 0.0, seed=how.stream("noise"),
                purpose=Purpose.TRAINING, start=sample, count=1,
            )  # fmt: skip
            logits = model(copy[:, 0]).detach().numpy()[0]
            powers = np.exp(logits - logits.max())
            rows.append(powers / powers.sum())
    return np.array(rows).reshape(len(x), k, -1)


def plainly(f: NDArray[np.float64], y: Tensor, how: TrainSettings) -> NDArray[np.float64]:
    """The objective of each input as the equations write it, from probabilities."""
    own = y.numpy()
    result = np.array([np.mean([-math.log(p[label]) for p in copies]) for copies, label in zip(f, own, strict=True)])
    if how.method in ("adre", "adre-adv"):
        for i, (mean, label) in enumerate(zip(f.mean(1), own, strict=True)):
            runner_up = max((p for c, p in enumerate(mean) if c != label))
            result[i] += (how.adre_weight or 0.0) * math.log(runner_up + (how.probability_floor or 0.0))
    return result
