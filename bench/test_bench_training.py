"""Robust training steps with 50 projections: against a peer, and over the number of hidden units."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.nn import functional

import verifix as vx
from bench.cases import CASES, MNIST, Case, random_weights
from bench.measure import compare, rounds, threads
from bench.peak_memory import in_new_process
from bench.steps import Step, convex_adversarial_step, mean_loss, two_convolutions
from verifix.train import robust_loss

BATCH = 50


def _without_box(case: Case) -> Case:
    return Case(case.name, case.model, case.graph, case.x, case.y, vx.Ball("linf", case.eps))


@pytest.mark.parametrize("name", ["mnist-small", "mnist-large"])
def test_steps_against_convex_adversarial(benchmark: BenchmarkFixture, name: str) -> None:
    case, batch = _without_box(CASES[name]()), BATCH
    step = Step(case)
    with threads(2):
        x, y = case.batch(0, 4)
        exact = _exact_loss(case, 4)
        errors = {
            "verifix": {"error": abs(mean_loss(lambda seed: step(x, y, seed)) / exact - 1)},
            "convex_adversarial": {
                "error": abs(mean_loss(lambda _: convex_adversarial_step(case.model, x, y, case.eps)) / exact - 1)
            },
        }
        facts: dict[str, Any] = {
            "table": "training steps with 50 projections",
            "name": name,
            "method": "cap, median:50",
        }
        facts |= {"errors": errors, "hidden_units": case.hidden_units}
        facts["peak_mbytes"] = {
            side: _growth(in_new_process(name, f"{side}.step", inputs=batch, batch=batch))
            for side in ("verifix", "convex_adversarial")
        }
        sides = {
            "verifix": lambda index: step(*case.batch(index, batch), index),
            "convex_adversarial": lambda index: convex_adversarial_step(
                case.model, *case.batch(index, batch), case.eps
            ),
        }
        compare(benchmark, sides, case=facts, per=batch, count=rounds(9, 3))


def test_steps_of_methods(benchmark: BenchmarkFixture) -> None:
    """Whole steps, with Adam, on one network: what each method costs beside natural training."""
    case, batch = CASES["mnist-small"](), 128
    optimiser = torch.optim.Adam(case.model.parameters(), 0.0)

    def step(index: int, method: str | None = None) -> None:
        x, y = case.batch(index, batch)
        optimiser.zero_grad()
        if method is None:
            loss = functional.cross_entropy(case.graph(x), y)
        else:
            loss = robust_loss(case.graph, y, case.ball.around(x), method)
        loss.backward()
        optimiser.step()

    with threads(2):
        facts = {"table": "training steps of methods", "name": case.name, "method": "each", "errors": {}}
        sides: dict[str, Any] = {"natural": step}
        for method in ("ibp", "crown-ibp", "cap-ibp", "tight-smooth"):
            sides[method] = lambda index, method=method: step(index, method)
        compare(benchmark, sides, case=facts, per=batch, count=rounds(15, 3))


def test_steps_over_hidden_units(benchmark: BenchmarkFixture) -> None:
    filters = (4, 16, 62, 126, 254, 510)  # 4,704 to 401,408 hidden units
    cases = {784 * (2 + count): random_weights(f"{count} filters", lambda c=count: two_convolutions(c), MNIST, 0.1)
             for count in filters}  # fmt: skip
    steps = {f"{units} units": Step(_without_box(case)) for units, case in cases.items()}
    with threads(2):
        facts = {"table": "training steps over hidden units", "name": "two convolutions", "method": "cap, median:50"}
        sides = {name: lambda index, step=step: step(*step.case.batch(index, 4), index) for name, step in steps.items()}
        compare(benchmark, sides, case=facts | {"errors": {}}, per=4, count=rounds(5, 3))
        found = benchmark.extra_info["case"]
        units = torch.tensor([math.log(case.hidden_units) for case in cases.values()])
        times = torch.tensor([math.log(side["median_ms"]) for side in found["sides"].values()])
        found["exponent"] = float(((units - units.mean()) * times).sum() / (units - units.mean()).square().sum())
        found["microseconds_per_unit"] = {
            name: 1e3 * found["sides"][name]["median_ms"] / step.case.hidden_units for name, step in steps.items()
        }


def _exact_loss(case: Case, inputs: int) -> float:
    """The loss that the projections estimate. It is not linear in the norms, so that it need not be their mean."""
    x, y = case.batch(0, inputs)
    with torch.no_grad():
        return float(robust_loss(case.graph, y, case.ball.around(x), "cap"))


def _growth(found: dict[str, float] | str) -> float | str:
    return found if isinstance(found, str) else found["growth"]
