"""Exact margins by backward passes: against peers, plain torch and the matrix rate; time over operations."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

import verifix as vx
from bench.cases import CASES, Case, deep, error_of, wide
from bench.measure import QUICK, Side, compare, rounds, threads
from bench.peak_memory import in_new_process
from bench.peers import convex_adversarial_margins

LARGE = ("mnist-large", "cifar-large", "cifar-resnet")


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("batch", [20, 50])
@pytest.mark.parametrize("name", ["mnist-small-published", "cifar-small-published"])
def test_cap_against_convex_adversarial(benchmark: BenchmarkFixture, name: str, batch: int, count: int) -> None:
    if QUICK and (batch > 20 or count == 1):
        pytest.skip("a full run measures this")
    case = CASES[name]()

    def native(index: int) -> Tensor:
        return case.margins(*case.batch(index, batch), "cap")

    def filtered(index: int) -> Tensor:
        return case.margins(*case.batch(index, batch), "filtered:same")

    def certify(index: int) -> object:
        return vx.certify(case.graph, *case.batch(index, batch), case.ball, "cap")

    def peer(index: int) -> Tensor:
        return convex_adversarial_margins(case.model, *case.batch(index, batch), case.eps)

    with threads(count):
        x, y = case.batch(0, 4)
        theirs = convex_adversarial_margins(case.model, x, y, case.eps)
        errors = {
            "verifix": case.verify("cap"),
            "verifix, filtered": case.verify("filtered:same"),
            "convex_adversarial": {"error": error_of(theirs, case.oracle(x, y, "cap"))},
        }
        flops = dict.fromkeys(("verifix", "verifix.certify", "verifix, filtered", "convex_adversarial"), case.flops)
        facts = {"table": "cap against convex_adversarial", "name": case.name, "method": "cap", "errors": errors}
        facts["peak_mbytes"] = {
            side: _growth(in_new_process(name, side, inputs=1000 if side == "verifix" else batch, batch=batch))
            for side in ("verifix", "convex_adversarial")
        }
        sides = {
            "verifix": native,
            "verifix.certify": certify,
            "verifix, filtered": filtered,
            "convex_adversarial": peer,
        }
        compare(benchmark, sides, case=facts, per=batch, count=rounds(1000 // batch, 5), flops=flops)


@pytest.mark.parametrize("method", ["cap", "crown"])
@pytest.mark.parametrize("name", ["mnist-small-published", "cifar-small-published", "dense-9"])
def test_against_torch(benchmark: BenchmarkFixture, name: str, method: str) -> None:
    if QUICK and (method == "crown" or name == "cifar-small-published"):
        pytest.skip("a full run measures this")
    case, batch = CASES[name](), 20
    with threads(2):
        errors = {side: case.verify(method, native=side == "verifix") for side in ("verifix", "torch")}
        facts = {"table": "exact margins against plain torch", "name": case.name, "method": method, "errors": errors}
        sides = {
            "verifix": lambda index: case.margins(*case.batch(index, batch), method),
            "torch": lambda index: case.margins(*case.batch(index, batch), method, native=False),
        }
        flops = dict.fromkeys(sides, case.flops)
        compare(benchmark, sides, case=facts, per=batch, count=rounds(10, 3), flops=flops)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("batch", [1, 100])
def test_threads_and_batches(benchmark: BenchmarkFixture, count: int, batch: int) -> None:
    case = CASES["mnist-small-published"]()
    with threads(count):
        errors = {"verifix": case.verify("cap")}
        facts = {"table": "threads and batches", "name": case.name, "method": "cap", "errors": errors}
        sides = {"verifix": lambda index: case.margins(*case.batch(index, batch), "cap")}
        compare(benchmark, sides, case=facts, per=batch, count=rounds(30, 10), flops={"verifix": case.flops})


@pytest.mark.parametrize("name", LARGE)
def test_large_networks_in_two_gibibytes(benchmark: BenchmarkFixture, name: str) -> None:
    if QUICK and name == "cifar-large":
        pytest.skip("a full run measures this")
    case, inputs, budget = CASES[name](), 2, 2 << 30
    facts: dict[str, Any]
    with threads(2):
        errors = {"verifix": case.verify("cap", whole=False, inputs=1)}
        facts = {"table": "large networks", "name": case.name, "method": "cap", "errors": errors}
        facts |= {"hidden_units": case.hidden_units, "budget_mbytes": budget / 1e6}
        ours = in_new_process(name, "verifix", inputs=inputs, batch=inputs, memory=budget)
        facts["peak_mbytes"] = {"verifix": _growth(ours)}
        if not QUICK and name != "cifar-large":
            facts["peer"] = in_new_process(name, "convex_adversarial", inputs=1, batch=1, most=16 << 30, seconds=400)
        sides = {"verifix": lambda index: case.margins(*case.batch(index, inputs), "cap")}
        compare(benchmark, sides, case=facts, per=inputs, count=rounds(5, 2), flops={"verifix": case.flops})


@pytest.mark.parametrize("family", ["wide", "deep"])
def test_time_over_operations(benchmark: BenchmarkFixture, family: str) -> None:
    cases = [wide(k) for k in (1, 2, 4, 8)] if family == "wide" else [deep(k) for k in (1, 2, 3, 4)]
    inputs = 64  # so that what a pass costs once, whatever the network, hardly counts
    with threads(2):
        errors = {case.name: case.verify("cap", whole=False, inputs=1) for case in cases}
        facts = {"table": f"time over operations, {family}", "name": family, "method": "cap", "errors": errors}
        sides = {case.name: _side(case, inputs) for case in cases}
        flops = {case.name: case.flops for case in cases}
        compare(benchmark, sides, case=facts, per=inputs, count=rounds(9, 3), flops=flops)
        found = benchmark.extra_info["case"]["sides"].values()
        costs = [side["median_ms"] / side["gflop"] for side in found]
        assert all(math.isfinite(cost) for cost in costs)
        benchmark.extra_info["case"]["largest_over_smallest"] = max(costs) / min(costs)


def _growth(found: dict[str, float] | str) -> float | str:
    return found if isinstance(found, str) else found["growth"]


def _side(case: Case, inputs: int) -> Side:
    return lambda index: case.margins(*case.batch(index, inputs), "cap")
