from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from verifix.process_memory import forget_peak

FAULTS = """
import resource, sys, torch
from verifix.process_memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("not glibc")
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.empty(16 * 2**20).fill_(1.0)  # 64 MiB each
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def _faults(how: str) -> int:
    ran = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True)
    if "not glibc" in ran.stderr:
        pytest.skip("the C library is not glibc, whose freed memory this is about")
    return int(ran.stdout)


def test_freed_memory_is_there_for_the_next_tensor() -> None:
    assert _faults("keep") < 100 < _faults("leave")  # of 65,536 pages of 4 KiB, or 128 huge ones


def test_command_keeps_it_and_a_call_from_python_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from verifix.cli import main as command

    called: list[bool] = []
    monkeypatch.setattr(command, "keep_freed_memory", lambda: called.append(True))
    assert command.main(["info", "--no-such-option"]) == command.BAD_INPUT
    assert not called
    monkeypatch.setattr(sys, "argv", ["verifix", "info", "--no-such-option"])
    assert command.main() == command.BAD_INPUT
    assert called == [True]


def test_peak_begins_anew_with_what_is_in_use() -> None:
    def peak() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

    if sys.platform != "linux":
        pytest.skip("only Linux can set the mark back")
    torch.empty(64 * 2**20).fill_(1.0)  # 256 MiB
    high = peak()
    if not forget_peak(torch.device("cpu")):
        pytest.skip("this system does not let a process set its own mark back")
    assert peak() < high - 200 * 2**10
