"""Methods by their cost, on the inputs that are left."""

from __future__ import annotations

import torch

from verifix.bounds import Method
from verifix.certify import certify
from verifix.compare.certifier import by_cost
from verifix.data import load
from verifix.graph import capture
from verifix.sets import Ball


def test_has_the_verdicts_of_all_methods_at_once() -> None:
    torch.manual_seed(3)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 40), torch.nn.ReLU(), torch.nn.Linear(40, 20), torch.nn.ReLU(),
        torch.nn.Linear(20, 10),
    ).eval()  # fmt: skip
    data = load("digits").first(60)
    x = data.images
    y = model(x).argmax(1)
    y[:5] = (y[:5] + 1) % 10  # which are falsified
    methods = (Method("interval", "constant"), Method("interval", "adaptive"), Method("backward", "same"))
    graph, inputs = capture(model, x[:2]), Ball("linf", eps=0.03, box=(0, 1)).around(x)
    staged = by_cost(graph, methods, None)(x, y, inputs)
    whole, cheap = (certify(graph, x, y, inputs, method=some) for some in (methods, methods[:2]))
    assert staged.verdicts.tolist() == whole.verdicts.tolist()
    assert torch.equal(staged.predictions, whole.predictions)
    assert (staged.margin <= whole.margin).all() and ((staged.margin > 0) == (whole.margin > 0)).all()
    kinds = set(whole.verdicts)
    assert kinds == {"verified", "falsified", "unknown"}
    assert (cheap.verdicts != whole.verdicts).any()  # so that both stages are needed here
