"""Training steps: with 50 projections against a peer and over the number of hidden units, and of each method."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import verifix as vx
from bench.cases import CASES, MNIST, Case, random_weights
from bench.measure import Side, compare, rounds, threads
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
            side: _growth(in_new_process(name, f"{side}.step:cap", inputs=batch, batch=batch))
            for side in ("verifix", "convex_adversarial")
        }
        sides = {
            "verifix": _side(step, batch),
            "convex_adversarial": lambda index: convex_adversarial_step(
                case.model, *case.batch(index, batch), case.eps
            ),
        }
        compare(benchmark, sides, case=facts, per=batch, count=rounds(9, 3))


def test_steps_of_methods(benchmark: BenchmarkFixture) -> None:
    """Whole steps, with Adam, on one network: what each method costs beside natural training."""
    case, batch = CASES["mnist-small"](), 128
    optimiser = torch.optim.Adam(case.model.parameters(), 0.0)

    def side(method: str) -> Side:
        step = Step(case, method)

        def whole(index: int) -> None:
            step(*case.batch(index, batch), index)
            optimiser.step()

        return whole

    with threads(2):
        facts = {"table": "training steps of methods", "name": case.name, "method": "each", "errors": {}}
        sides = {"natural": side("none")}
        sides |= {method: side(method) for method in ("ibp", "crown-ibp", "cap-ibp", "tight-smooth")}
        compare(benchmark, sides, case=facts, per=batch, count=rounds(25, 9))


@pytest.mark.parametrize(
    ("name", "batch"),
    [("mnist-small", 32), ("mnist-small", 64), ("mnist-small", 128), ("wide 2", 64), ("wide 4", 64), ("wide 8", 64)],
)
def test_crown_ibp_over_batch_and_units(benchmark: BenchmarkFixture, name: str, batch: int) -> None:
    """Time and memory of a step, as the batch grows and as the network does."""
    case = CASES[name]()
    with threads(2):
        facts: dict[str, Any] = {
            "table": "training steps of crown-ibp over batch and units",
            "name": f"{name}, {case.hidden_units} units",
            "method": "each",
            "errors": {},
        }
        methods = {"natural": "none", "crown-ibp": "crown-ibp"}
        facts["peak_mbytes"] = {
            side: _growth(in_new_process(name, f"verifix.step:{method}", inputs=batch, batch=batch))
            for side, method in methods.items()
        }
        sides = {side: _side(Step(case, method), batch) for side, method in methods.items()}
        compare(benchmark, sides, case=facts, per=batch, count=rounds(9, 3))


def test_steps_over_hidden_units(benchmark: BenchmarkFixture) -> None:
    filters = (4, 16, 62, 126, 254, 510)  # 4,704 to 401,408 hidden units
    cases = {784 * (2 + count): random_weights(f"{count} filters", partial(two_convolutions, count), MNIST, 0.1)
             for count in filters}  # fmt: skip
    steps = {f"{units} units": Step(_without_box(case)) for units, case in cases.items()}
    with threads(2):
        facts = {"table": "training steps over hidden units", "name": "two convolutions", "method": "cap, median:50"}
        sides = {name: _side(step, 4) for name, step in steps.items()}
        compare(benchmark, sides, case=facts | {"errors": {}}, per=4, count=rounds(5, 3))
        found = benchmark.extra_info["case"]
        units = torch.tensor([math.log(case.hidden_units) for case in cases.values()])
        times = torch.tensor([math.log(side["median_ms"]) for side in found["sides"].values()])
        found["exponent"] = float(((units - units.mean()) * times).sum() / (units - units.mean()).square().sum())
        found["microseconds_per_unit"] = {
            name: 1e3 * found["sides"][name]["median_ms"] / step.case.hidden_units for name, step in steps.items()
        }


def _side(step: Step, batch: int) -> Side:
    return lambda index: step(*step.case.batch(index, batch), index)


def _exact_loss(case: Case, inputs: int) -> float:
    """The loss that the projections estimate. It is not linear in the norms, so that it need not be their mean."""
    x, y = case.batch(0, inputs)
    with torch.no_grad():
        return float(robust_loss(case.graph, y, case.ball.around(x), "cap"))


def _growth(found: dict[str, float] | str) -> float | str:
    return found if isinstance(found, str) else found["growth"]
