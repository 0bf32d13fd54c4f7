"""The log format of the literature: read, written, and held against what its level can give."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verifix.errors import InvalidValue
from verifix.smooth.log import (
    LogRow,
    average_certified_radius,
    infer_alpha,
    radius_grid,
    radius_text,
    read_log,
    rows_on_grid,
    write_log,
)

PUBLISHED = """idx\tlabel\tpredict\tradius\tcorrect\ttime
0\t3\t3\t0.978\t1\t0:00:15.123456
20\t8\t5\t1.96\t0\t0:01:05
40\t8\t-1\t0.0\t0\t1 day, 2:00:00.500000
"""
ROWS = [LogRow(0, 3, 3, 0.978, 15.123456), LogRow(20, 8, 5, 1.96, 65.0), LogRow(40, 8, -1, 0.0, 93600.5)]


def write(folder: Path, text: str) -> Path:
    path = folder / "published.tsv"
    path.write_text(text)
    return path


class TestReading:
    def test_rows(self, tmp_path: Path) -> None:
        rows = read_log(write(tmp_path, PUBLISHED))
        assert rows == ROWS
        assert [row.correct for row in rows] == [True, False, False]

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("1\t2\t2\t0.5\t1", "5 fields between tabs, not 6"),
            ("1\t2\t2\t0.5\t1\t0:00:01\t", "7 fields"),
            ("1 2 2 0.5 1 0:00:01", "1 fields"),
            ("", "1 fields"),
            ("x\t2\t2\t0.5\t1\t0:00:01", "idx 'x' is no whole number of at least 0"),
            ("1\t-2\t2\t0.5\t1\t0:00:01", "label '-2' is no whole number of at least 0"),
            ("1\t2\t-2\t0.5\t1\t0:00:01", "predict '-2' is no whole number of at least -1"),
            ("1\t2\t2\thalf\t1\t0:00:01", "radius 'half' is no number"),
            ("1\t2\t2\tnan\t1\t0:00:01", "radius nan is not finite and >= 0"),
            ("1\t2\t2\tinf\t1\t0:00:01", "radius inf is not finite and >= 0"),
            ("1\t2\t2\t-0.5\t1\t0:00:01", "radius -0.5 is not finite and >= 0"),
            ("1\t2\t-1\t0.5\t0\t0:00:01", "radius 0.5 where predict is -1"),
            ("1\t2\t3\t0.5\t1\t0:00:01", "correct is '1' where label is 2 and predict 3"),
            ("1\t2\t2\t0.5\t0\t0:00:01", "correct is '0' where label is 2 and predict 2"),
            ("1\t2\t2\t0.5\tTrue\t0:00:01", "correct is 'True'"),
            ("1\t2\t2\t0.5\t1\t15,2", "time '15,2' is neither such as 0:00:15.123456 nor seconds"),
            ("1\t2\t2\t0.5\t1\t0:00:75", "time '0:00:75'"),
        ],
    )
    def test_malformed_row(self, tmp_path: Path, row: str, message: str) -> None:
        path = write(tmp_path, PUBLISHED + row + "\n")
        with pytest.raises(InvalidValue) as caught:
            read_log(path)
        assert str(caught.value).startswith(f"log = {path}: line 5 is malformed: ")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "found an empty file"),
            (
                "idx\tlabel\tpredict\tcorrect\ttime\n",
                "line 1 must be the header 'idx label predict radius correct time'",
            ),
            ("idx\tlabel\tpredict\tradius\tcorrect\ttime\n", "holds no rows"),
        ],
    )
    def test_no_log(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(InvalidValue) as caught:
            read_log(write(tmp_path, text))
        assert message in str(caught.value)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidValue, match="cannot be read: No such file"):
            read_log(tmp_path / "absent.tsv")
        (tmp_path / "binary.tsv").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(InvalidValue, match="cannot be read"):
            read_log(tmp_path / "binary.tsv")


class TestWriting:
    def test_as_published(self, tmp_path: Path) -> None:
        write_log(tmp_path / "own.tsv", ROWS)
        assert (tmp_path / "own.tsv").read_text() == PUBLISHED

    @given(st.floats(min_value=1e-12, max_value=1e6))
    def test_never_more_than_was_certified(self, radius: float) -> None:
        printed = float(radius_text(radius))
        assert 0.99 * radius < printed <= radius
        assert float(f"{printed:.3}") == printed  # three digits

    def test_where_published_ones_round_up(self) -> None:
        assert f"{1.9553:.3}" == "1.96"
        assert radius_text(1.9553) == "1.95"

    @settings(max_examples=20)
    @given(
        st.lists(
            st.builds(
                LogRow,
                st.integers(0, 10**6),
                st.integers(0, 9),
                st.integers(0, 9),
                st.sampled_from([0.0, 0.123, 3.81, 12.5, 1e-07]),
                st.integers(0, 10**12).map(lambda microseconds: microseconds / 1e6),
            ),
            min_size=1,
        )
    )
    def test_read_again(self, rows: list[LogRow]) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            write_log(Path(folder) / "x.tsv", rows)
            assert read_log(Path(folder) / "x.tsv") == rows


def test_average_certified_radius() -> None:
    assert average_certified_radius(ROWS) == 0.978 / 3  # the wrong one counts nothing, whatever its radius


def synthetic(sigma: float, n: int, alpha: float, rows: int = 400) -> list[LogRow]:
    """A log near saturation as CERTIFY with these settings would publish it, computed by scipy."""
    from scipy.stats import beta, norm

    against = np.random.default_rng(3).integers(0, 60, rows)
    lower = np.where(against == 0, alpha ** (1 / n), beta.ppf(alpha, n - against, against + 1))
    return [LogRow(i, 0, 0, float(f"{radius:.3}"), 1.0) for i, radius in enumerate(sigma * norm.ppf(lower))]


class TestLevel:
    def test_saturation(self) -> None:
        assert f"{radius_grid(1.0, 100_000, 0.001)[0]:.4f}" == "3.8115"
        assert f"{radius_grid(1.0, 100_000, 0.01)[0]:.4f}" == "3.9105"
        grid = radius_grid(0.25, 100_000, 0.001)
        assert (np.diff(grid) < 0).all()
        assert grid[-1] > 0.8

    def test_few_samples(self) -> None:
        assert len(radius_grid(1.0, 20, 0.001, above=0.0)) == len(radius_grid(2.0, 20, 0.001, above=0.0)) < 20

    @pytest.mark.parametrize("alpha", [0.001, 0.01])
    @pytest.mark.parametrize("sigma", [0.12, 0.25, 0.5])
    def test_inferred(self, sigma: float, alpha: float) -> None:
        rows = synthetic(sigma, 100_000, alpha)
        assert infer_alpha(rows, sigma=sigma, n=100_000) == alpha
        on_grid, near = rows_on_grid(rows, sigma=sigma, n=100_000, alpha=0.01 if alpha == 0.001 else 0.001)
        assert on_grid < near == rows_on_grid(rows, sigma=sigma, n=100_000, alpha=alpha)[0]

    def test_not_inferred(self) -> None:
        assert infer_alpha([LogRow(0, 1, 1, 0.3, 1.0)], sigma=0.25, n=100_000) is None  # nothing near saturation
        assert infer_alpha(synthetic(0.25, 100_000, 0.02), sigma=0.25, n=100_000) is None

    def test_of_a_published_log(self, tmp_path: Path) -> None:
        """All radii above 3.2 sigma in the CIFAR-10 log of Cohen et al. 2019 for sigma 0.25, n = 100,000:
        they are those of level 0.01, and not of the 0.001 that the paper names. Its times are plain seconds."""
        thousandths = "978 955 941 929 920 906 894 889 880 873 866 863 859 849 844 831 824 821 817 811 806 802"
        radii = thousandths.split()
        rows = "".join(f"{20 * i}\t3\t3\t{int(radius) / 1000}\t1\t16.9\n" for i, radius in enumerate(radii))
        path = tmp_path / "sigma_0.25"
        path.write_text(f"idx\tlabel\tpredict\tradius\tcorrect\ttime\n{rows}")
        found = read_log(path)
        assert {row.seconds for row in found} == {16.9}
        assert rows_on_grid(found, sigma=0.25, n=100_000, alpha=0.01) == (22, 22)
        assert rows_on_grid(found, sigma=0.25, n=100_000, alpha=0.001)[0] < 10
        assert infer_alpha(found, sigma=0.25, n=100_000) == 0.01

    def test_of_published_logs(self) -> None:
        """Every log below VERIFIX_DATA/smoothing-logs whose path tells its sigma, as the field's repositories do."""
        import re

        folder = Path(os.environ.get("VERIFIX_DATA", "")) / "smoothing-logs"
        if not os.environ.get("VERIFIX_DATA") or not folder.is_dir():
            pytest.skip("set VERIFIX_DATA to a folder with smoothing-logs/ in it")
        for path in sorted(folder.rglob("*sigma_*")):
            sigma = re.search(r"sigma_(\d+\.\d+)", str(path))
            if sigma is None or not path.is_file():
                continue
            rows = read_log(path)
            near = rows_on_grid(rows, sigma=float(sigma[1]), n=100_000, alpha=0.001)[1]
            assert near < 5 or infer_alpha(rows, sigma=float(sigma[1]), n=100_000) in (0.001, 0.01), path
