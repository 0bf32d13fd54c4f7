"""``verifix info``: what was built, what is used, and why anything is missing."""

from __future__ import annotations

import argparse
import json
import platform
from importlib import metadata
from typing import Any

PACKAGES = {  # what each is for
    "numpy": "arrays in files",
    "scipy": "statistics and linear programs",
    "rich": "tables and progress",
    "matplotlib": "pictures in reports",
    "safetensors": "weights in .safetensors files",
    "hypothesis": "optional: the tests",
    "pytest-benchmark": "optional: the benchmarks",
}


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Register ``info``."""
    summary = "say what was built, which instruction set is used, and what is missing and why"
    parser = subparsers.add_parser("info", help=summary, description=summary[0].upper() + summary[1:] + ".")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the facts; the exit status is 0."""
    facts = collect()
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        _show(facts)
    return 0


def collect() -> dict[str, Any]:
    """Everything that ``verifix info`` says, as it stands in ``--json``.

    >>> list(collect())
    ['verifix', 'python', 'torch', 'threads', 'cpu', 'cuda', 'packages']

    Raises:
        InvalidValue: ``VERIFIX_ISA`` is not an instruction set that this processor has.
    """
    import torch  # here, so that --help need not wait for it

    from verifix._version import __version__
    from verifix.kernels import native

    built = native.config()
    gpus = [torch.cuda.get_device_name(device) for device in range(torch.cuda.device_count())]
    return {
        "verifix": __version__,
        "python": platform.python_version(),
        "torch": {"version": torch.__version__, "cuda": torch.version.cuda, "gpus": gpus},
        "threads": torch.get_num_threads(),
        "cpu": built["cpu"],
        "cuda": {**built["cuda"], "state": _cuda_state(built["cuda"], torch.version.cuda, gpus)},
        "packages": {name: {"version": _version(name), "purpose": purpose} for name, purpose in PACKAGES.items()},
    }


def _cuda_state(cuda: dict[str, Any], torch_cuda: str | None, gpus: list[str]) -> str:
    if not cuda["built"]:
        return f"not used: {cuda['reason']}"
    if cuda["driver_version"] == 0:
        return "not used: this machine has no CUDA driver"
    if cuda["devices"] == 0:
        return f"not used: the driver (CUDA {_cuda_version(cuda['driver_version'])}) offers no GPU"
    if torch_cuda is None:
        return "not used: this torch is built without CUDA"
    if not gpus:
        return "not used: torch finds no GPU"
    return f"used for tensors on {', '.join(gpus)}"


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _isa(cpu: dict[str, Any]) -> str:
    why = f"VERIFIX_ISA={cpu['isa_override']}" if cpu["isa_override"] else "the widest that this processor has"
    return f"{cpu['isa']}, {why}; available: {', '.join(cpu['isas'])}"


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    torch, cpu, cuda = facts["torch"], facts["cpu"], facts["cuda"]
    rows = [
        ("verifix", facts["verifix"]),
        ("python", facts["python"]),
        ("torch", f"{torch['version']}, {'CUDA ' + torch['cuda'] if torch['cuda'] else 'without CUDA'}"),
        ("threads", str(facts["threads"])),
    ]
    if cpu["built"]:
        rows += [("cpu part", f"built with {cpu['compiler']} {cpu['flags']}"), ("instruction set", _isa(cpu))]
    else:
        rows.append(("cpu part", f"not used: {cpu['reason']}; plain torch takes its place"))
    rows.append(("cuda part", cuda.get("build", "unknown")))
    if cuda["built"]:
        rows.append(("cuda code", f"{cuda['architectures']}, run time {_cuda_version(cuda['runtime_version'])}"))
    rows.append(("cuda", cuda["state"]))
    for name, package in facts["packages"].items():
        rows.append((name, f"{package['version'] or 'missing'} ({package['purpose']})"))
    return rows


def _show(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(facts):
        table.add_row(name, escape(value))
    Console().print(table)
