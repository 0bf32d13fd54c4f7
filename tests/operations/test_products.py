"""Products by oneDNN: those of torch to rounding, with their gradients, where they are used at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from verifix.operations import products
from verifix.operations.products import recorded_product


@pytest.mark.parametrize("sides", ["nn", "tn", "nt", "tt"])
@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("shape", [(333, 100, 157), (1, 1, 1), (7, 64, 1), (0, 5, 3)])
def test_product(
    shape: tuple[int, int, int], wanted: tuple[bool, bool], sides: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "WORTH", 1)
    m, k, j = shape
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(a, b, generator=generator) for a, b in ((m, k), (k, j))]
    parts = [x.T.contiguous().T if side == "t" else x for x, side in zip(parts, sides, strict=True)]
    a, b = (x.requires_grad_(want) for x, want in zip(parts, wanted, strict=True))
    leaves = [x for x in (a, b) if x.requires_grad]
    toward = torch.randn(m, j, generator=generator)

    def everything(product: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> list[Tensor]:
        found = product(a.to(dtype), b.to(dtype))
        return [found, *torch.autograd.grad(found, leaves, toward.to(dtype))]

    ours, wants = everything(recorded_product, torch.float32), everything(torch.matmul, torch.float64)
    for found, exact in zip(ours, wants, strict=True):
        torch.testing.assert_close(found, exact.float(), rtol=1e-4, atol=1e-4)


def test_second_derivatives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "WORTH", 1)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator, requires_grad=True) for shape in ((3, 4), (4, 2)))
    seen = []
    for product in (recorded_product, torch.matmul):
        first = torch.autograd.grad(product(a, b).square().sum(), (a, b), create_graph=True)
        seen.append(torch.autograd.grad(torch.stack([x.square().sum() for x in first]).sum(), (a, b)))
    for ours, theirs in zip(*seen, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nowhere that certificates come from, and not without oneDNN."""
    a, b = torch.ones(1024, 32), torch.ones(32, 64)

    def used(a: Tensor, b: Tensor) -> bool:
        return "_Product" in type(recorded_product(a.requires_grad_(), b).grad_fn).__name__

    assert used(a, b) == torch.backends.mkldnn.is_available()
    assert not used(a.detach().double(), b.double())
    assert not used(a.detach()[:4], b)
    assert not used(a.detach()[None], b)
    with torch.no_grad():
        assert not used(a.detach(), b)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not used(a.detach(), b)
