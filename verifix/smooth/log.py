"""The tab-separated log of a certification that the literature publishes.

A header ``idx label predict radius correct time`` and a row for each input: its number in the data set, its label, the
class that was certified (-1: abstained, with radius 0.0), the radius, whether that class is the label, and the time it
took: as ``0:00:15.123456`` today, in seconds (``15.4``) in the first logs. Published logs print radii with three
significant digits, rounded to the nearest, so up to half of them state more than was certified; :func:`write_log`
rounds down.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from verifix.errors import InvalidValue
from verifix.files import write_bytes
from verifix.smooth.rules import certify_counts
from verifix.text import rounded_down

HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime"
DIGITS = 3
"""Significant digits of a radius."""
_TIME = re.compile(r"(?:(\d+) days?, )?(\d+):([0-5]\d):([0-5]\d)(?:\.(\d{1,6}))?")


@dataclass(frozen=True)
class LogRow:
    """One input: ``prediction`` is -1 and ``radius`` 0 where the classifier abstained."""

    index: int
    label: int
    prediction: int
    radius: float
    seconds: float

    @property
    def correct(self) -> bool:
        """Whether the class that was certified is the label."""
        return self.prediction == self.label


def read_log(path: str | Path) -> list[LogRow]:
    """The rows of a log, in its order.

    Raises:
        InvalidValue: no such file, another header, a row that is malformed or contradicts itself; the line is named.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValue("log", path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not lines or lines[0].split() != HEADER.split():
        found = repr(lines[0][:60]) if lines else "an empty file"
        raise InvalidValue("log", path, f"line 1 must be the header {' '.join(HEADER.split())!r}, found {found}")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        try:
            rows.append(_parse(line))
        except ValueError as error:
            raise InvalidValue("log", path, f"line {number} is malformed: {error}") from None
    if not rows:
        raise InvalidValue("log", path, "holds no rows")
    return rows


def _parse(line: str) -> LogRow:
    fields = line.split("\t")
    if len(fields) != 6:
        raise ValueError(f"{len(fields)} fields between tabs, not 6")
    index, label, prediction = (
        _whole(name, text, least)
        for name, text, least in zip(("idx", "label", "predict"), fields, (0, 0, -1), strict=False)
    )
    try:
        radius = float(fields[3])
    except ValueError:
        raise ValueError(f"radius {fields[3]!r} is no number") from None
    if not (math.isfinite(radius) and radius >= 0):
        raise ValueError(f"radius {fields[3]} is not finite and >= 0")
    if prediction == -1 and radius != 0:
        raise ValueError(f"radius {fields[3]} where predict is -1")
    if fields[4] not in ("0", "1") or (fields[4] == "1") != (prediction == label):
        raise ValueError(f"correct is {fields[4]!r} where label is {label} and predict {prediction}")
    return LogRow(index, label, prediction, radius, _seconds(fields[5].strip()))


def _seconds(text: str) -> float:
    if re.fullmatch(r"\d+(\.\d*)?", text):
        return float(text)
    time = _TIME.fullmatch(text)
    if time is None:
        raise ValueError(f"time {text!r} is neither such as 0:00:15.123456 nor seconds")
    days, hours, minutes, seconds = (int(part or 0) for part in time.groups()[:4])
    fraction = int((time[5] or "").ljust(6, "0"))
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds, microseconds=fraction).total_seconds()


def _whole(name: str, text: str, least: int) -> int:
    if re.fullmatch(r"-?\d+", text) is None or int(text) < least:
        raise ValueError(f"{name} {text!r} is no whole number of at least {least}")
    return int(text)


def write_log(path: str | Path, rows: Iterable[LogRow]) -> None:
    """Write a log, whole or not at all; radii are rounded down to three significant digits.

    Raises:
        OSError: it cannot be written.
    """
    lines = [
        f"{row.index}\t{row.label}\t{row.prediction}\t{radius_text(row.radius)}\t{int(row.correct)}\t"
        f"{timedelta(microseconds=round(row.seconds * 1e6))}"
        for row in rows
    ]
    write_bytes(Path(path), "\n".join([HEADER, *lines, ""]).encode())


def radius_text(radius: float) -> str:
    """A radius as a log of ours prints it.

    >>> radius_text(1.9553), radius_text(0.9776), radius_text(0.0)
    ('1.95', '0.977', '0.0')
    """
    return rounded_down(radius, DIGITS) if radius else "0.0"


def average_certified_radius(rows: Sequence[LogRow]) -> float:
    """The mean of radius times correct (Zhai et al. 2020): wrong answers and abstentions count as radius 0.

    >>> average_certified_radius([LogRow(0, 7, 7, 0.5, 1.0), LogRow(1, 2, 3, 0.9, 1.0), LogRow(2, 1, -1, 0.0, 1.0)])
    0.16666666666666666
    """
    return math.fsum(row.radius for row in rows if row.correct) / len(rows)


NEAR_SATURATION = 3.2
"""In units of sigma: radii above it take few values, those that so many votes for one class can certify."""


def radius_grid(sigma: float, n: int, alpha: float, above: float = NEAR_SATURATION) -> NDArray[np.float64]:
    """All radii above ``above * sigma`` that CERTIFY can give with ``n`` samples at level ``alpha``, from the largest.

    Sample counts are whole numbers, so the radius with ``k`` votes against the class is one of
    ``sigma * Phi^-1(lower Clopper-Pearson bound of n - k out of n)``.

    >>> radius_grid(1.0, 100_000, 0.001)[:3].round(4)
    array([3.8115, 3.7391, 3.6896])
    """
    size = 64
    while True:
        against = np.arange(min(size, n + 1))
        counts = np.stack([n - against, against], axis=1)
        radii = certify_counts(counts, np.zeros(len(against), dtype=np.int64), sigma, alpha, rule="certify")
        kept = radii[radii > above * sigma]
        if len(kept) < len(radii) or len(radii) == n + 1:
            return kept
        size *= 4


def rows_on_grid(rows: Sequence[LogRow], *, sigma: float, n: int, alpha: float) -> tuple[int, int]:
    """How many rows near saturation have a radius that CERTIFY can give at this level, and how many there are.

    A radius counts as such where some value of :func:`radius_grid`, rounded to three significant digits to the nearest
    as published logs do, is the one in the log.
    """
    grid = {float(f"{value:.3}") for value in radius_grid(sigma, n, alpha, NEAR_SATURATION - 0.05)}
    near = [row for row in rows if row.radius > NEAR_SATURATION * sigma]
    return sum(row.radius in grid for row in near), len(near)


def infer_alpha(
    rows: Sequence[LogRow], *, sigma: float, n: int, among: Sequence[float] = (0.001, 0.01, 0.05, 0.0001)
) -> float | None:
    """The level at which CERTIFY made a log: the one of ``among`` that explains every radius near saturation.

    Args:
        rows: of a log that was made with Gaussian noise.
        sigma, n: its standard deviation, and samples per input.
        among: levels to try.

    Returns:
        The level, or None where none of them or several explain all rows, or no row is near saturation.
    """
    found = [alpha for alpha in among if _explains(rows, sigma, n, alpha)]
    return found[0] if len(found) == 1 else None


def _explains(rows: Sequence[LogRow], sigma: float, n: int, alpha: float) -> bool:
    on_grid, near = rows_on_grid(rows, sigma=sigma, n=n, alpha=alpha)
    return 0 < near == on_grid
