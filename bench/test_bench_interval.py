"""Interval passes and CROWN-IBP without gradients, against our own plain torch path."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.cases import CASES
from bench.measure import Side, compare, rounds, threads


@pytest.mark.parametrize("rounding", [True, False], ids=["rigorous", "plain"])
@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
@pytest.mark.parametrize("name", ["mnist-small-published", "mnist-large"])
def test_interval(benchmark: BenchmarkFixture, name: str, method: str, rounding: bool) -> None:
    case, batch = CASES[name](), 50

    def side(native: bool) -> Side:
        return lambda index: case.margins(*case.batch(index, batch), method, native=native, rounding=rounding)

    with threads(2):
        errors = {label: case.verify(method, native=label == "verifix") for label in ("verifix", "torch")}
        facts = {
            "table": "interval passes",
            "name": case.name,
            "method": method if rounding else f"{method}, rounding not accounted",
            "errors": errors,
        }
        compare(benchmark, {"verifix": side(True), "torch": side(False)}, case=facts, per=batch, count=rounds(40, 12))
