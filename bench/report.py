"""Turns what pytest-benchmark stored into ``results.json`` and ``RESULTS.md``: ``python -m bench.report RUN...``.

Tables that no run has measured stay as they were, if they are of the same machine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
INTRODUCTION = """# Results

Written by `make bench`; do not edit. Sides of a case take turns within one run; medians are over the half of the
rounds in which other programs took the smallest share of the processors (column *others*). Read ratios, not
milliseconds: where that share is not near zero, its noise is in every number. `README.md` explains the columns.
"""
_NOTED = {"largest_over_smallest", "peer", "exponent", "samples", "sweeps"}
COLUMNS = (
    "case", "method", "inputs", "threads", "side", "ms per input (IQR)", "ratio", "of minima", "error", "lowered by",
    "share of matrix rate", "share of copy rate", "peak growth, MB", "others",
)  # fmt: skip


def main(*runs: Path) -> str:
    """Write both files from one or more runs on one machine, and return the text of ``RESULTS.md``.

    Cases of a table that is measured again replace all that were there.
    """
    stored = [json.loads(run.read_text()) for run in runs]
    facts = [entry["extra_info"] for run in stored for entry in run["benchmarks"] if "case" in entry["extra_info"]]
    machine: dict[str, Any] = dict(facts[0]["machine"]) if facts else {}
    quick = machine.pop("quick", False)
    machine.pop("commit", None)
    date = stored[0]["datetime"][:10]
    cases = [fact["case"] | {"commit": fact["machine"]["commit"], "date": date, "quick": quick} for fact in facts]
    results = _short({"machine": machine, "cases": _with_others(cases, machine)})
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    text = _markdown(results)
    (HERE / "RESULTS.md").write_text(text)
    return text


def _with_others(cases: list[dict[str, Any]], machine: dict[str, Any]) -> list[dict[str, Any]]:
    """The cases, and those in ``results.json`` of other tables; tables stay in their order."""
    path = HERE / "results.json"
    before = json.loads(path.read_text()) if path.is_file() else {"machine": None, "cases": []}
    if before["machine"] != machine:
        return cases
    tables = dict.fromkeys(case["table"] for case in [*before["cases"], *cases])
    new = {case["table"] for case in cases}
    return [case for table in tables for case in (cases if table in new else before["cases"]) if case["table"] == table]


def _short(value: Any) -> Any:
    """Floats with four digits: the rest is noise."""
    if isinstance(value, dict):
        return {key: _short(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_short(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _markdown(results: dict[str, Any]) -> str:
    machine = results["machine"]
    facts = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in machine.items())
    parts = [INTRODUCTION, f"Machine: {facts}.\n"]
    tables = dict.fromkeys(case["table"] for case in results["cases"])
    for table in tables:
        cases = [case for case in results["cases"] if case["table"] == table]
        parts.append(f"## {table[0].upper()}{table[1:]}\n")
        parts.append(_table(cases))
        parts += [f"{_note(case)}\n" for case in cases if _NOTED & case.keys()]
        rates = sorted(case["matrix_gflops"] for case in cases)
        copies = sorted(case["copy_gbytes_per_second"] for case in cases)
        commits, dates = (", ".join(dict.fromkeys(case[fact] for case in cases)) for fact in ("commit", "date"))
        quick = ", quick" if any(case["quick"] for case in cases) else ""
        parts.append(
            f"Measured in the same rounds: matrix rate {rates[0]} to {rates[-1]} GFLOP/s, "
            f"copy {copies[0]} to {copies[-1]} GB/s; {dates}{quick}, commit {commits}.\n"
        )
    return "\n".join(parts)


def _note(case: dict[str, Any]) -> str:
    if "exponent" in case:
        costs = ", ".join(f"{cost:.3g} ({name})" for name, cost in case["microseconds_per_unit"].items())
        return (
            f"{case['name']}: time grows as the number of hidden units to the power of {case['exponent']:.2f}; "
            f"microseconds per unit and input: {costs}."
        )
    if "sweeps" in case:
        found = ", ".join(
            f"{mean:.2g} on average, {most:.2g} at most ({side})" for side, (mean, most) in case["residuals"].items()
        )
        return f"{case['name']}: {case['sweeps']:.1f} sweeps in the mean; column residuals {found}."
    if "samples" in case:
        found = case["samples"]
        answers = ", ".join(f"{count} {answer}" for answer, count in found["answers"].items())
        return (
            f"{case['name']}: {found['mean']:.0f} samples in the mean over {found['inputs']} inputs ({answers}), "
            f"{found['fewer']:.1f} times fewer."
        )
    if "peer" in case:
        peer = case["peer"]
        if isinstance(peer, str):
            return f"{case['name']}: convex_adversarial, one input in a process of its own: {peer}."
        times = peer["seconds"] * 1e3 / case["sides"]["verifix"]["median_ms"]
        return (
            f"{case['name']}: convex_adversarial, one input in a process of its own, once: {peer['seconds']:.1f} s, "
            f"{times:.0f} times as long, with a peak growth of {peer['growth']:.0f} MB."
        )
    factor = case["largest_over_smallest"]
    return f"{case['name']}: time over operations varies by a factor of {factor:.2f} from end to end."


def _table(cases: list[dict[str, Any]]) -> str:
    rows = [_row(case, side) for case in cases for side in case["sides"]]
    used = [i for i in range(len(COLUMNS)) if any(row[i] for row in rows)]
    lines = [[COLUMNS[i] for i in used], ["---"] * len(used), *([row[i] for i in used] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _row(case: dict[str, Any], side: str) -> list[str]:
    found, errors = case["sides"][side], case["errors"].get(side, {})
    peak = case.get("peak_mbytes", {}).get(side, "")
    return [
        case["name"], case["method"], str(case["inputs"]), str(case["threads"]), side,
        f"{found['median_ms']:.3g} ({found['iqr_ms']:.2g})",
        f"{found['ratio']['of_medians']:.3g}", f"{found['ratio']['of_least']:.3g}",
        *(f"{errors[key]:.1e}" if key in errors else "" for key in ("error", "lowered by")),
        f"{found['share_of_matrix_rate']:.1%}" if "share_of_matrix_rate" in found else "",
        f"{found['share_of_copy_rate']:.1%}" if "share_of_copy_rate" in found else "",
        f"{peak:.0f}" if isinstance(peak, float | int) else peak,
        f"{case['share_of_other_programs']:.0%}",
    ]  # fmt: skip


if __name__ == "__main__":
    print(main(*map(Path, sys.argv[1:])))
