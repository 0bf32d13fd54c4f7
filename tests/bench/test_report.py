"""Results of several runs in one file: what is measured again is replaced, the rest stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import report


def run(folder: Path, tables: dict[str, float], *, processor: str = "fast") -> Path:
    """A file as pytest-benchmark stores it, of one case for each table and its median."""

    def case(table: str, median: float) -> dict[str, Any]:
        side = {"median_ms": median, "iqr_ms": 0.1, "ratio": {"of_medians": 1.0, "of_least": 1.0}}
        return {
            "table": table, "name": "net", "method": "cap", "errors": {}, "inputs": 1, "threads": 1,
            "share_of_other_programs": 0.0, "matrix_gflops": 1.0, "copy_gbytes_per_second": 1.0,
            "sides": {"ours": side},
        }  # fmt: skip

    machine = {"processor": processor, "commit": "abc", "quick": False}
    entries = [{"extra_info": {"case": case(table, median), "machine": machine}} for table, median in tables.items()]
    path = folder / "run.json"
    path.write_text(json.dumps({"datetime": "2026-01-02T03:04:05", "benchmarks": entries}))
    return path


def medians(folder: Path) -> dict[str, float]:
    cases = json.loads((folder / "results.json").read_text())["cases"]
    return {case["table"]: case["sides"]["ours"]["median_ms"] for case in cases}


def test_tables_that_are_not_measured_again_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "HERE", tmp_path)
    report.main(run(tmp_path, {"one": 1.0, "two": 2.0}))
    text = report.main(run(tmp_path, {"two": 5.0, "three": 3.0}))
    assert medians(tmp_path) == {"one": 1.0, "two": 5.0, "three": 3.0}
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## One", "## Two", "## Three"]
    assert "2026-01-02, commit abc" in text


def test_another_machine_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "HERE", tmp_path)
    report.main(run(tmp_path, {"one": 1.0}))
    report.main(run(tmp_path, {"two": 2.0}, processor="slow"))
    assert medians(tmp_path) == {"two": 2.0}
