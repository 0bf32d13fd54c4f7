"""Loading the compiled parts: what happens where one is missing, and what loading must not disturb."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict

import pytest
import torch

from verifix import _C
from verifix.errors import InvalidValue
from verifix.kernels import abs_median, native


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_missing_parts_are_named_once_and_replaced_by_the_reference() -> None:
    code = """
import sys
sys.modules["verifix._C"] = sys.modules["verifix._C_cuda"] = None
import torch, verifix.kernels as kernels
from verifix.kernels import native
x = torch.randn(3, 6, 5, requires_grad=True)
for _ in range(2):
    values, index = kernels.abs_median(x)
values.sum().backward()
wanted = kernels.reference.abs_median(x)
assert torch.equal(values, wanted[0]) and torch.equal(index, wanted[1]) and x.grad.abs().sum() == 15
facts = native.config()
assert not facts["cpu"]["built"] and not facts["cuda"]["built"] and native.isa() == "none"
"""
    result = python(code)
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines() == [
        "verifix._C is not used, it is not in this installation: plain torch takes its place, same results, slower"
    ]


def test_importing_verifix_loads_no_cuda_part() -> None:
    code = "import sys, verifix.kernels; assert not {'verifix._C', 'verifix._C_cuda'} & set(sys.modules)"
    assert python(code).returncode == 0


def test_importing_verifix_loads_nothing_that_few_need() -> None:
    code = "import sys, verifix; assert not {'scipy', 'matplotlib', 'rich', 'torch._dynamo'} & set(sys.modules)"
    assert python(code).returncode == 0, python(code).stderr


def test_a_part_that_does_not_load_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError("libsomething.so.1: cannot open shared object file")

    monkeypatch.setattr(native.importlib, "import_module", broken)
    library = native.load.__wrapped__("verifix._C")
    assert library.module is None
    assert library.reason == "it does not load: libsomething.so.1: cannot open shared object file"


def test_cuda_part_loads_where_it_was_built() -> None:
    """Without a driver too: what it needs of CUDA is inside it."""
    facts = native.config()["cuda"]
    if not facts["build"].startswith("built"):
        pytest.skip(f"CUDA part: {facts['build']}")
    assert facts["built"], facts["reason"]
    assert facts["runtime_version"] >= 11000
    assert facts["devices"] == 0 or facts["driver_version"] > 0


def test_isa_is_the_widest_unless_overridden(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VERIFIX_ISA", raising=False)
    assert native.isa.__wrapped__() == _C.config()["isas"][-1]
    monkeypatch.setenv("VERIFIX_ISA", isa)
    assert native.isa.__wrapped__() == isa


def test_isa_reaches_the_kernel_through_the_environment() -> None:
    result = python(
        "import torch; from verifix.kernels import abs_median; abs_median(torch.ones(1, 1, 1))", VERIFIX_ISA="mmx"
    )
    assert result.returncode != 0
    assert re.search(
        r"InvalidValue: VERIFIX_ISA = mmx: there is no such instruction set; use one of base", result.stderr
    )


def test_isa_that_the_processor_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        @staticmethod
        def config() -> dict[str, list[str]]:
            return {"isas": ["base", "avx2"], "isas_known": ["base", "avx2", "avx512"]}

    monkeypatch.setattr(native, "load", lambda name: native.Library(name, Old, ""))
    monkeypatch.setenv("VERIFIX_ISA", "avx512")
    with pytest.raises(InvalidValue, match="VERIFIX_ISA = avx512: this processor lacks it; use one of base, avx2"):
        native.isa.__wrapped__()


def test_number_of_threads_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Recorder:
        @staticmethod
        def abs_median(**arguments: int) -> None:
            seen.append(arguments["threads"])

    monkeypatch.setattr(native, "module_or_none", lambda name: Recorder)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            abs_median(torch.ones(1, 1, 1))
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 2]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_one_openmp_library_shared_with_torch() -> None:
    code = """
import torch, verifix.kernels
from pathlib import Path
verifix.kernels.abs_median(torch.randn(8, 50, 1000))
words = Path("/proc/self/maps").read_text().split()
print(len({word for word in words if "libgomp" in word or "libomp" in word or "libiomp" in word}))
"""
    assert python(code).stdout == "1\n"


def test_subnormal_numbers_stay_what_they_are() -> None:
    """Loading must not switch on flush-to-zero, on any thread; and where a user has done so, results stay the same."""
    code = """
import torch, verifix.kernels as kernels
tiny = torch.full((4, 31, 4000), 1e-40)
values, _ = kernels.abs_median(tiny)
assert (values > 0).all() and (tiny * 0.5 > 0).all() and 5e-324 * 1.0 > 0
x = torch.arange(1, 32).flip(0).reshape(1, 31, 1).expand(4, 31, 4000).contiguous().to(torch.int32).view(torch.float32)
before = kernels.abs_median(x)
assert torch.set_flush_denormal(True)
after = kernels.abs_median(x)
assert torch.equal(before[0].view(torch.int32), after[0].view(torch.int32)) and torch.equal(before[1], after[1])
assert (after[1] == 15).all()
"""
    result = python(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not installed")
@pytest.mark.skipif("avx512" not in _C.config()["isas_known"], reason="not built for x86-64")
def test_wide_instructions_stay_in_their_own_functions() -> None:
    """Nothing that runs on every processor, the bindings included, holds an instruction of AVX2 or AVX-512."""
    command = ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", _C.__file__]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    widest: dict[str, set[str]] = defaultdict(set)
    function = ""
    for line in text.splitlines():
        if line.endswith(">:"):
            function = line.split(" <", 1)[1][:-2]
        elif re.search(r"%zmm|%k[0-7]|%[xy]mm(1[6-9]|2\d|3[01])", line):
            widest["avx512"].add(function)
        elif "%ymm" in line:
            widest["avx2"].add(function)
    if not any("verifix::" in name for names in widest.values() for name in names):
        pytest.skip("the extension is stripped of its symbols")
    for kernel in ("abs_median", "Pass<"):
        assert any("verifix::avx512::" in name and kernel in name for name in widest["avx512"])
    assert [name for name in widest["avx512"] if "verifix::avx512::" not in name] == []
    assert [name for name in widest["avx2"] if "verifix::avx512::" not in name and "verifix::avx2::" not in name] == []
