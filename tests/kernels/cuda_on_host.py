"""The CUDA code of backward passes, on the GPU and compiled for the host, so that it is tested where there is no GPU.

On the host it is the code that the kernels call for each work item and lane, under the same driver, with the same
bindings; loops take the place of kernels (``cuda_on_host.cpp``). It is built once for a session, with sanitizers where
:mod:`tests.kernels.extension` says so.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kernels.extension import SANITIZED
from tests.kernels.plans import NO_HULL, Array, Case, Request, address

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    "cpu/plan.cpp",
    "cuda/plan_weights.cpp",
    "cuda/backward_schedule.cpp",
    "bindings/plan.cpp",
    "bindings/plan_cuda.cpp",
)
FLAGS = ("-std=c++17", "-O1", "-g0", "-fPIC", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fvisibility=hidden")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")


@functools.cache
def host_module() -> Any:
    """The module with the classes of ``verifix._C_cuda``; skips the test where it cannot be built."""
    return build([*(ROOT / "csrc" / name for name in SOURCES), Path(__file__).with_suffix(".cpp")])


def build(sources: list[Path]) -> Any:
    """A module of these files, named as the last of them; skips the test where it cannot be built."""
    name = sources[-1].stem
    pybind11 = pytest.importorskip("pybind11")
    compiler = shutil.which(os.environ.get("CXX") or "g++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    flags = [*FLAGS, *(SANITIZERS if SANITIZED else ())]
    include = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc/include'}"]
    include += [f"-isystem{path}" for path in (pybind11.get_include(), sysconfig.get_path("include"))]
    with tempfile.TemporaryDirectory() as folder:

        def compile_one(source: Path) -> str:
            target = str(Path(folder) / f"{source.parent.name}_{source.stem}.o")
            subprocess.run([compiler, *flags, *include, "-c", str(source), "-o", target], check=True)
            return target

        with ThreadPoolExecutor(2) as pool:
            objects = list(pool.map(compile_one, sources))
        library = Path(folder) / f"{name}.so"
        subprocess.run([compiler, *flags, "-shared", *objects, "-o", str(library)], check=True)
        specification = importlib.util.spec_from_file_location(name, library)
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
    return module


class HostMemory:
    """Copies of arrays that a pass may use, on the boundary of a vector, as a device has them."""

    streams = (0, 1)  # both orders of items, see cuda_on_host.cpp

    def __init__(self) -> None:
        self.held: dict[int, Any] = {}

    @staticmethod
    def module() -> Any:
        return host_module()

    def put(self, x: Array | None) -> int:
        if x is None or x.size == 0:
            return 0
        memory = np.zeros(x.nbytes + 64, np.uint8)
        skip = -memory.ctypes.data % 64
        copy = memory[skip : skip + x.nbytes]
        copy[:] = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
        self.held[address(copy)] = copy
        return address(copy)

    def get(self, at: int, like: Array) -> Array:
        """What is at an address now, if it is not that of nothing."""
        return self.held[at].view(like.dtype).reshape(like.shape) if at else like


class CudaMemory(HostMemory):
    """The same on the GPU."""

    streams = (0,)

    @staticmethod
    def module() -> Any:
        from verifix import _C_cuda

        return _C_cuda

    def put(self, x: Array | None) -> int:
        import torch

        if x is None or x.size == 0:
            return 0
        copy = torch.from_numpy(np.array(x)).cuda()
        self.held[copy.data_ptr()] = copy
        return copy.data_ptr()

    def get(self, at: int, like: Array) -> Array:
        return self.held[at].cpu().numpy() if at else like


def no_gpu() -> str:
    """Why passes cannot run on a GPU here; empty where they can."""
    if SANITIZED:
        return "torch takes no part"
    import torch

    from verifix.kernels.native import load

    if not torch.cuda.is_available():
        return "torch finds no GPU"
    return load("verifix._C_cuda").reason


on_gpu = (pytest.mark.cuda, pytest.mark.skipif(bool(no_gpu()), reason=no_gpu() or "there is one"))
on_host_and_gpu = pytest.mark.parametrize("kind", [HostMemory, pytest.param(CudaMemory, marks=on_gpu)])


def borrowing(kind: type[Case], memory: HostMemory) -> type[Case]:
    """Cases whose plans borrow what is in such a memory; indices stay where the plan is."""

    class Borrowing(kind):  # type: ignore[misc, valid-type]
        def keep(self, x: Array | None) -> int:
            return memory.put(x) if x is not None and x.dtype == self.dtype else super().keep(x)

    return Borrowing


def run_scheduled(
    case: Case, request: Request, memory: HostMemory, pairs: int = 2**40, stream: int = 0, forms: Array | None = None
) -> tuple[Array, Array | None]:
    """As :func:`tests.kernels.plans.run`, with memory for so many pairs at once.

    The memory is full of NaN at first: nothing may be read that was not written; what follows it must stay untouched.
    """
    shape = (request.inputs, request.rows) if request.row_offsets is None else (request.rows,)
    low, high = np.full(shape, 7, case.dtype), np.full(shape, -7, case.dtype)
    put, coefficients = memory.put, request.coefficients
    schedule = case.plan.schedule(
        start=request.start, rows=request.rows, positions=address(request.positions), inputs=request.inputs,
        row_offsets=address(request.row_offsets),
    )  # fmt: skip
    size = min(pairs, schedule.pairs(inputs=request.inputs)) * schedule.bytes_per_pair()
    tables, workspace = np.frombuffer(schedule.tables(), np.uint8), np.full(size + 2**14, 0xFF, np.uint8)
    at_workspace = put(workspace)
    at_low, at_high, at_forms = put(low), put(high) if request.both else 0, put(forms)
    ball = {"hull": request.hull, "center": put(request.center), "radius": put(request.radius)}
    if forms is not None:
        ball = {"hull": NO_HULL, "center": 0, "radius": 0, "forms": at_forms}
    schedule.run(
        inputs=request.inputs, coefficients=put(coefficients),
        coefficient_batch=1 if coefficients is None else len(coefficients), sign=request.sign,
        lines=[put(line) for four in request.lines for line in four], both=request.both,
        low=at_low, high=at_high, **ball,
        tables=put(tables), workspace=at_workspace, bytes=size, stream=stream,
    )  # fmt: skip
    assert (memory.get(at_workspace, workspace)[size:] == 0xFF).all()
    if forms is not None:
        forms[:] = memory.get(at_forms, forms)
    return memory.get(at_low, low), memory.get(at_high, high) if request.both else None


def host_plan(shape: tuple[int, ...], dtype: Any) -> Any:
    """A :class:`verifix.kernels.plan_cuda.CudaPlan` that runs on the host, on tensors of the CPU."""
    import torch

    from verifix.kernels.plan import plane
    from verifix.kernels.plan_cuda import CudaPlan

    class HostPlan(CudaPlan):
        def __init__(self) -> None:
            super().__init__(shape, dtype, torch.device("cpu"))
            module = host_module()
            self.native = (module.PlanFloat32 if dtype == torch.float32 else module.PlanFloat64)(plane(shape))

        def _mark(self) -> None:
            """What the host writes is there."""

        def _execute(self, **request: Any) -> None:
            self._launch(0, request)

        def _upload(self, data: bytes) -> Any:
            return torch.frombuffer(bytearray(data or bytes(1)), dtype=torch.uint8).clone()

    return HostPlan()
