"""Curves of certified accuracy: their arithmetic, table and picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifix.errors import InvalidValue
from verifix.report.smoothing import SmoothedCurve, markdown, smoothing_picture, smoothing_table, table_radii
from verifix.smooth.log import LogRow, read_log

# ten inputs as a published log has them: 7 correct, 2 wrong, 1 abstained
LOG = """idx\tlabel\tpredict\tradius\tcorrect\ttime
0\t3\t3\t0.25\t1\t0:00:15.123456
20\t8\t5\t1.96\t0\t0:00:15.123456
40\t8\t8\t0.499\t1\t0:00:15.123456
60\t0\t0\t0.5\t1\t0:00:15.123456
80\t6\t6\t0.0123\t1\t0:00:15.123456
100\t6\t-1\t0.0\t0\t0:00:15.123456
120\t1\t1\t1.91\t1\t0:00:15.123456
140\t6\t3\t0.3\t0\t0:00:15.123456
160\t3\t3\t1.0\t1\t0:00:15.123456
180\t1\t1\t0.75\t1\t0:00:15.123456
"""

ROWS = st.lists(
    st.builds(
        LogRow, st.just(0), st.integers(0, 1), st.integers(0, 1), st.integers(0, 8).map(lambda k: k / 4), st.just(1.0)
    )
    | st.just(LogRow(0, 1, -1, 0.0, 1.0)),
    min_size=1,
    max_size=30,
)


@pytest.fixture
def curve(tmp_path: Path) -> SmoothedCurve:
    (tmp_path / "log.tsv").write_text(LOG)
    return SmoothedCurve.of("log", read_log(tmp_path / "log.tsv"))


def test_by_hand(curve: SmoothedCurve) -> None:
    assert (curve.n, curve.correct, curve.wrong, curve.abstained) == (10, 7, 2, 1)
    assert curve.accuracy([0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]) == [
        0.7, 0.6, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1, 0.0,
    ]  # fmt: skip
    assert curve.average_radius == pytest.approx((0.25 + 0.499 + 0.5 + 0.0123 + 1.91 + 1.0 + 0.75) / 10, rel=1e-15)


@given(ROWS, st.integers(0, 9).map(lambda k: k / 4))
def test_as_the_field_computes_it(rows: list[LogRow], radius: float) -> None:
    found = SmoothedCurve.of("any", rows)
    assert found.accuracy([radius]) == [sum(row.correct and row.radius >= radius for row in rows) / len(rows)]
    assert found.correct + found.wrong + found.abstained == found.n == len(rows)
    assert abs(found.average_radius - sum(row.radius * row.correct for row in rows) / len(rows)) < 1e-12


def test_table(curve: SmoothedCurve) -> None:
    table = smoothing_table([curve], [0, 0.5, 1.95])
    assert table == [
        ["", "r = 0", "r = 0.5", "r = 1.95", "ACR", "correct", "wrong", "abstained", "inputs"],
        ["log", "70.0", "40.0", "0.0", "0.4921", "7", "2", "1", "10"],
    ]
    assert markdown(table).splitlines()[2] == "| log | 70.0 | 40.0 | 0.0 | 0.4921 | 7 | 2 | 1 | 10 |"


def test_numbers_are_rounded_down() -> None:
    rows = [LogRow(i, 1, 1 if i else 0, 0.99999, 1.0) for i in range(3000)]
    (row,) = smoothing_table([SmoothedCurve.of("a", rows)], [0])[1:]
    assert row[1:3] == ["99.9", "0.9996"]


@given(st.lists(st.floats(0, 50), max_size=5), st.sampled_from(["l2", "l0"]))
def test_radii_of_the_table(found: list[float], norm: str) -> None:
    radii = table_radii([SmoothedCurve("a", norm, 9, 0, 0, len(found), 0.0, sorted(map(float, map(int, found))))])
    assert radii[0] == 0
    assert len(radii) <= 11
    assert radii == sorted(set(radii))
    assert radii[-1] <= max(map(int, found), default=0)
    assert norm != "l0" or all(radius == int(radius) for radius in radii)


def test_picture(tmp_path: Path, curve: SmoothedCurve) -> None:
    other = SmoothedCurve.of("none", [LogRow(0, 1, -1, 0.0, 1.0)])
    smoothing_picture(tmp_path / "curves.png", [curve, other], "two")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((tmp_path / "curves.json").read_text())
    assert [entry["name"] for entry in numbers["curves"]] == ["log", "none"]
    assert numbers["curves"][0]["radii"] == [0.0123, 0.25, 0.499, 0.5, 0.75, 1.0, 1.91]


def test_norms_are_not_mixed(tmp_path: Path, curve: SmoothedCurve) -> None:
    other = SmoothedCurve.of("l1", [LogRow(0, 1, 1, 0.5, 1.0)], "l1")
    with pytest.raises(InvalidValue, match="radii of one norm share a figure"):
        smoothing_picture(tmp_path / "curves.png", [curve, other])
    assert not list(tmp_path.glob("curves*"))


def test_markdown_of_any_name() -> None:
    assert markdown([["", "r = 0"], ["a|b", "98.0"]]).splitlines()[2] == r"| a\|b | 98.0 |"


def test_no_rows() -> None:
    with pytest.raises(InvalidValue, match="at least one input"):
        SmoothedCurve.of("empty", [])
