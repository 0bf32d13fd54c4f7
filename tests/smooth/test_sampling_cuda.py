"""Votes on a GPU: the same noise, and the network's own arithmetic, whose effect is counted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from verifix.smooth.noise import Gaussian, Purpose, Samples
from verifix.smooth.sampling import Sampler
from verifix.zoo import mnist_small

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
SAMPLES = 2000


@pytest.mark.parametrize("lattice", [None, 255])
def test_only_near_ties_turn(lattice: int | None, record_property: Callable[[str, object], None]) -> None:
    torch.manual_seed(0)
    model, x = mnist_small().eval(), torch.randint(0, 256, (2, 1, 28, 28)) / 255
    noise = Gaussian(0.5, lattice=lattice)
    here = Sampler(model, noise, classes=10).votes(x, Purpose.ESTIMATION, count=SAMPLES)
    samples = Samples(0, Purpose.ESTIMATION, torch.arange(2), 0, SAMPLES)
    noisy = noise.draw(x, samples)
    there_noisy = noise.draw(x.cuda(), Samples(0, Purpose.ESTIMATION, samples.inputs.cuda(), 0, SAMPLES))
    assert torch.equal(noisy, there_noisy.cpu())
    with torch.inference_mode():
        logits = model(noisy.flatten(0, 1)).double()
        model.cuda()
        others = model(there_noisy.flatten(0, 1)).double().cpu()
    there = Sampler(model, noise, classes=10).votes(x.cuda(), Purpose.ESTIMATION, count=SAMPLES).cpu()
    assert there.sum(1).tolist() == [SAMPLES, SAMPLES]
    best = logits.topk(2).values
    near = (best[:, 0] - best[:, 1]) < 4 * float((logits - others).abs().max())
    turned = int((here - there).abs().sum()) // 2
    record_property("votes_that_differ_from_the_cpu", turned)
    print(f"{turned} of {2 * SAMPLES} votes differ, {int(near.sum())} are near ties")
    assert turned <= int(near.sum())
