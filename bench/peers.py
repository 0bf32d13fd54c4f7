"""Other software that computes the same bounds, where it is installed."""

from __future__ import annotations

import importlib
import os
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from verifix import zoo


def convex_adversarial_margins(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Margins ``(n, classes - 1)`` by the dual network of convex_adversarial: the published ``cap``."""
    peer = pytest.importorskip("convex_adversarial", reason="convex_adversarial is not installed (extra `bench`)")
    with torch.no_grad():
        dual = peer.DualNetwork(model, x, eps)
        classes = torch.eye(model[-1].out_features)  # type: ignore[index]
        margins: Tensor = dual(classes[y].unsqueeze(1) - classes.unsqueeze(0))
    others = torch.arange(margins.shape[1]).expand(len(y), -1) != y[:, None]
    return margins[others].reshape(len(y), -1)


def convex_adversarial_resnet(model: nn.Sequential) -> nn.Sequential:
    """``zoo.cifar_resnet()`` in the form that convex_adversarial reads, with the same weights."""
    peer = pytest.importorskip("convex_adversarial", reason="convex_adversarial is not installed (extra `bench`)")
    layers: list[nn.Module] = []
    for module in model:
        if isinstance(module, zoo.ResidualBlock):
            first, relu, second = module.main
            layers += [peer.Dense(first), relu, peer.Dense(module.skip, None, second), module.relu]
        else:
            layers.append(module)
    return peer.DenseSequential(OrderedDict((str(i), layer) for i, layer in enumerate(layers)))


def authors_sinkhorn() -> Any:
    """The module ``projected_sinkhorn`` of the package of that name (0.2); its own folder has to be on the path.

    ``VERIFIX_PROJECTED_SINKHORN`` is the folder that holds ``projected_sinkhorn.py`` and ``lambertw.py``, from
    ``pip download --no-deps projected-sinkhorn==0.2`` unpacked somewhere.
    """
    folder = os.environ.get("VERIFIX_PROJECTED_SINKHORN", "")
    if not (Path(folder) / "lambertw.py").is_file():
        pytest.skip(f"VERIFIX_PROJECTED_SINKHORN = {folder!r} is not the folder of projected_sinkhorn 0.2")
    path = list(sys.path)
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("projected_sinkhorn")
    finally:
        sys.path[:] = path
