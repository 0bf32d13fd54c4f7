"""Estimators are spelled, checked, and belong to methods that have something to estimate."""

from __future__ import annotations

from typing import Any

import pytest

from verifix.bounds import Estimator, Method, parse_method
from verifix.errors import UserError


@pytest.mark.parametrize(
    ("text", "kind", "k", "groups"),
    [
        ("exact", "exact", None, 1),
        ("median", "median", 50, 1),
        ("Median:7", "median", 7, 1),
        ("gaussian:50", "gaussian", 50, 1),
        ("geometric", "geometric", None, 1),
        ("geometric:2000", "geometric", 2000, 1),
        (" geometric:200x10 ", "geometric", 200, 10),
    ],
)
def test_spelling(text: str, kind: str, k: int | None, groups: int) -> None:
    estimator = Estimator.parse(text)
    assert (estimator.kind, estimator.k, estimator.groups) == (kind, k, groups)
    assert Estimator.parse(str(estimator)) == estimator


@pytest.mark.parametrize("text", ["", "mean:5", "median:", "median:x", "median:-3", "median:1", "median:5x2", "exact:5",
                                  "geometric:x3", "geometric:20x0", "gaussian:50:2"])  # fmt: skip
def test_what_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^(estimator|k|groups) "):
        Estimator.parse(text)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kind": "median", "delta": 0.1},
        {"kind": "geometric", "delta": 0.0},
        {"kind": "geometric", "delta": 1.0},
        {"kind": "geometric", "delta": float("nan")},
        {"kind": "geometric", "groups": 2},
        {"kind": "median", "k": 2.5},
        {"kind": "median", "k": True},
        {"kind": "median", "seed": -1},
        {"kind": "exact", "k": 3},
        {"kind": "mode"},
    ],
)
def test_arguments_that_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Estimator(**arguments)


def test_delta_has_a_default_and_is_kept() -> None:
    assert Estimator.parse("geometric").delta == 0.01
    assert Estimator.parse("geometric", delta=0.2).delta == 0.2
    assert Estimator.parse("median").delta is None


def test_methods_take_one() -> None:
    assert parse_method("cap+filtered:same", "median:9") == (
        Method("backward", "same", Estimator("median", 9)),
        Method("filtered", "same", Estimator("median", 9)),
    )
    assert Method("backward", "same", "median:9").estimator == Estimator("median", 9)  # type: ignore[arg-type]
    for method in ("ibp", "crown-ibp", "crown", "interval:same", "crown+ibp"):
        with pytest.raises(ValueError, match="nothing to estimate"):
            parse_method(method, "median:9")
        assert parse_method(method, "exact") == parse_method(method)
    kinds = [method.estimator.kind for method in parse_method("cap+crown+ibp", "geometric")]
    assert kinds == ["geometric", "exact", "exact"]  # where it fits
    with pytest.raises(TypeError, match="estimator"):
        Method("backward", "same", 50)  # type: ignore[arg-type]
