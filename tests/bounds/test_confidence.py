"""The failure probability is spent once, on what is estimated."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from tests.networks import relu_network
from verifix.bounds.confidence import Account
from verifix.bounds.estimator import Estimator
from verifix.graph import capture

WIDTHS = (5, 40, 30, 20, 3)
GRAPH = capture(relu_network(WIDTHS, 0), torch.zeros(1, 5, dtype=torch.float64))
HIDDEN = ["0", "2", "4"]


def account(delta: float = 0.1, k: int | None = 200, terms: int = 1, inputs: int = 2, groups: int = 1) -> Account:
    return Account(GRAPH, Estimator("geometric", k, groups, delta), inputs, lambda name: terms)


@given(st.data(), st.floats(1e-6, 0.9), st.integers(1, 2))
def test_no_input_spends_more_than_delta(data: st.DataObject, delta: float, terms: int) -> None:
    book = account(delta, terms=terms)
    spent, made = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)
    for name, width in zip(HIDDEN, WIDTHS[1:], strict=False):
        if data.draw(st.booleans()):
            book.settle(name)
            continue
        wanted = torch.tensor([data.draw(st.integers(0, width)) for _ in range(2)])
        levels = book.spend(name, wanted)
        assert (levels[wanted == 0] == 0).all()
        spent += torch.where(wanted > 0, wanted * terms * levels.exp(), 0.0)
        made += wanted * terms
    assert (spent <= delta).all()
    assert book.confidence().estimates.tolist() == made.tolist()
    assert book.confidence().delta == delta


def test_all_is_spent_evenly_when_everything_is_estimated() -> None:
    book = account(0.1)
    total = sum(WIDTHS[1:-1])
    for name, width in zip(HIDDEN, WIDTHS[1:], strict=False):
        levels = book.spend(name, torch.tensor([width, width]))
        torch.testing.assert_close(levels, torch.full((2,), math.log(0.1 / total), dtype=torch.float64))


def test_what_a_node_does_not_need_stays_for_the_next() -> None:
    book, even = account(0.1), 0.1 / sum(WIDTHS[1:-1])
    book.settle("0")
    assert float(book.spend("2", torch.tensor([30, 3]))[0].exp()) > 1.4 * even
    last = book.spend("4", torch.tensor([20, 20])).exp()
    assert last[1] > 1.2 * last[0]


def test_after_all_is_spent_nothing_can_be_estimated() -> None:
    book = account()
    for name, width in zip(HIDDEN, WIDTHS[1:], strict=False):
        book.spend(name, torch.tensor([width, width]))
    book._left.zero_()
    with pytest.raises(ValueError, match="ask for it first"):
        book.spend("6", torch.tensor([3, 3]))
    assert book.spend("6", torch.tensor([0, 0])).tolist() == [0.0, 0.0]


def test_rows_are_chosen_for_delta_and_the_number_of_estimates() -> None:
    few, many, stricter = account(0.1, None), account(0.1, None, terms=2), account(1e-6, None)
    assert few.k < many.k < stricter.k
    assert float(few.inflation(torch.tensor([math.log(0.1 / 90)])).max()) <= 1.25


def test_too_few_rows_are_refused_with_a_number_that_would_do() -> None:
    levels = torch.tensor([math.log(0.01 / 90)], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"k = (\d+) would do") as refused:
        account(0.01, 10).inflation(levels)
    enough = int(str(refused.value).split("k = ")[-1].split()[0])
    account(0.01, enough).inflation(levels)
    with pytest.raises(ValueError, match="would do"):
        account(0.01, enough - 1).inflation(levels)


def test_the_factor_on_normal_rows_is_the_quantile_of_chi() -> None:
    levels = torch.tensor([math.log(1e-3), math.log(1e-12)], dtype=torch.float64)
    factors = account(0.1, 50).deflation(levels)
    for factor, level in zip(factors.tolist(), (1e-3, 1e-12), strict=True):
        assert chi2.cdf(1 / factor**2, 50) == pytest.approx(level, rel=1e-5)
