"""Builds the extensions of verifix: ``verifix._C`` always, ``verifix._C_cuda`` where nvcc is found.

Everything else about the package is in pyproject.toml. torch is not needed to build. Environment variables:

    VERIFIX_CUDA        unset: build the CUDA part if nvcc is found and works; 1: it must build; 0: leave it out
    VERIFIX_CUDA_ARCHS  what the CUDA part is compiled for, separated by semicolons; default "90+PTX": sm_90 code, and
                        compute_90 PTX for later GPUs
    VERIFIX_DEBUG       1: no optimisation, debug symbols, warnings are errors
    VERIFIX_SANITIZE    for example "address,undefined": build with these sanitizers (preload their library to use it)
    MAX_JOBS            how many compilers run at once; default: what ninja thinks best
    CXX, CUDA_HOME      the C++ compiler (default g++), and where CUDA is (default: by PATH, then /usr/local/cuda)

Source files are found by name: csrc/cpu/NAME_avx2.cpp and NAME_avx512.cpp are compiled for those instruction sets, all
other files for the plain machine, so a new kernel needs no change here.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
X86_64 = platform.machine().lower() in {"x86_64", "amd64"}
DEBUG = os.environ.get("VERIFIX_DEBUG", "0") not in {"", "0"}

# Instruction sets by the ending of the file name. They share no inline code: see CONTRIBUTING.md.
INSTRUCTION_SETS = {
    "_base": "-msse4.2 -mpopcnt",
    "_avx2": "-mavx2 -mfma",
    "_avx512": "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mprefer-vector-width=512",
}


@dataclass
class Toolchain:
    """The programs and flags that make one extension."""

    compiler: str
    flags: list[str]
    link: list[str]
    facts: dict[str, str]  # what the bindings report about the build, as preprocessor definitions
    nvcc: str = ""
    nvcc_flags: list[str] = field(default_factory=list)


def host_flags() -> list[str]:
    """Flags for every C++ file: strict IEEE arithmetic, and nothing exported."""
    flags = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi", "-fopenmp"]
    flags += ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
    flags += ["-O0", "-g", "-Werror", "-D_GLIBCXX_ASSERTIONS"] if DEBUG else ["-O3", "-g0", "-DNDEBUG"]
    return flags + sanitize_flags()


def sanitize_flags() -> list[str]:
    wanted = os.environ.get("VERIFIX_SANITIZE", "")
    return [f"-fsanitize={wanted}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g"] if wanted else []


def cpu_toolchain(cuda: str) -> Toolchain:
    compiler = os.environ.get("CXX") or "g++"
    facts = {"VERIFIX_FLAGS": " ".join(host_flags()), "VERIFIX_CUDA_BUILD": cuda}
    return Toolchain(compiler, host_flags(), ["-shared", "-fopenmp", *sanitize_flags()], facts)


def find_nvcc() -> str | None:
    """The nvcc of CUDA_HOME or CUDA_PATH, of the PATH, or of the usual place."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    places = [*(f"{home}/bin" for home in homes), os.environ.get("PATH", ""), "/usr/local/cuda/bin"]
    return shutil.which("nvcc", path=os.pathsep.join(places))


def cuda_architectures() -> list[str]:
    """nvcc flags for VERIFIX_CUDA_ARCHS."""
    flags = []
    for item in re.split(r"[;,\s]+", os.environ.get("VERIFIX_CUDA_ARCHS") or "90+PTX"):
        match = re.fullmatch(r"(\d+[af]?)(\+PTX)?", item)
        if match is None:
            raise SystemExit(f"VERIFIX_CUDA_ARCHS: {item!r} is not of the form 90, 90a or 90+PTX")
        codes = [f"sm_{match[1]}", *([f"compute_{match[1]}"] if match[2] else [])]
        flags += [f"-gencode=arch=compute_{match[1]},code={code}" for code in codes]
    return flags


def cuda_toolchain(nvcc: str) -> Toolchain:
    """nvcc compiles and links, so that it finds its static run-time library; the symbols of that stay inside."""
    compiler = os.environ.get("CXX") or "g++"
    architectures = cuda_architectures()
    facts = {"VERIFIX_CUDA_ARCHITECTURES": " ".join(re.findall(r",code=(\w+)", " ".join(architectures)))}
    device = ["-std=c++17", *(["-O0", "-lineinfo"] if DEBUG else ["-O3"]), "-ccbin", compiler, *architectures]
    device += ["--fmad=false", "-prec-div=true", "-prec-sqrt=true", "-ftz=false"]
    device += ["-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra,-ffp-contract=off"]
    link = ["-shared", "-cudart=static", "-ccbin", compiler, "-Xlinker", "--exclude-libs,ALL"]
    return Toolchain(compiler, host_flags(), link, facts, nvcc, device)


class NinjaFile:
    """The build.ninja of one extension: which file is compiled how, with header dependencies."""

    def __init__(self, folder: Path, tools: Toolchain, include: list[str]) -> None:
        self.folder = folder
        self.objects: list[str] = []
        # Paths below the root are relative to the folder of the build file: nothing of this machine ends in the binary.
        self.root = os.path.relpath(ROOT, folder)
        facts = [f'-D{name}="{value}"' for name, value in tools.facts.items()]
        own = f"-I{self.root}/csrc/include"
        linker = tools.nvcc or tools.compiler
        bindings = [*(f"-I{path}" for path in include), *facts]
        self.lines = ["ninja_required_version = 1.5", f"bindings = {join(bindings)}", ""]
        self.rule("cxx", [tools.compiler, "-MMD", "-MF", "$out.d", *tools.flags, own, "$extra", "-c", "$in"])
        self.rule("nvcc", [tools.nvcc, "-MD", "-MF", "$out.d", *tools.nvcc_flags, own, "-c", "$in"])
        link = join([linker, "$in", *tools.link])
        self.lines += ["rule link", f"  command = {link} -o $out", "  description = link $out", ""]

    def rule(self, name: str, command: list[str]) -> None:
        self.lines += [f"rule {name}", f"  command = {join(command)} -o $out", "  depfile = $out.d", "  deps = gcc"]
        self.lines += [f"  description = {name} $in", ""]

    def compile(self, source: str) -> None:
        """Add one source file; bindings alone see the headers of Python and pybind11."""
        path = Path(source)
        target = f"{path.parent.name}_{path.stem}.o"
        rule = "nvcc" if path.suffix == ".cu" else "cxx"
        self.lines.append(f"build {target}: {rule} {escape(f'{self.root}/{source}', path=True)}")
        ending = re.search(r"_(base|avx2|avx512)$", path.stem)
        if ending and X86_64:
            self.lines.append(f"  extra = {INSTRUCTION_SETS[ending[0]]}")
        if path.parent.name == "bindings":
            self.lines.append("  extra = $bindings")
        self.objects.append(target)

    def build(self, output: Path) -> None:
        """Write the file and run ninja."""
        self.folder.mkdir(parents=True, exist_ok=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        self.lines += ["", f"build {escape(str(output), path=True)}: link {' '.join(self.objects)}", ""]
        (self.folder / "build.ninja").write_text("\n".join(self.lines))
        jobs = os.environ.get("MAX_JOBS", "")
        subprocess.run([find_ninja(), "-C", str(self.folder), *(["-j", jobs] if jobs else [])], check=True)


def find_ninja() -> str:
    """The ninja of the Python package, else the one of the system."""
    try:
        from ninja import BIN_DIR
    except ImportError:
        BIN_DIR = ""
    return shutil.which("ninja", path=BIN_DIR) or "ninja"


def escape(text: str, path: bool = False) -> str:
    """Text as ninja reads it."""
    text = text.replace("$", "$$")
    return text.replace(" ", "$ ").replace(":", "$:") if path else text


def join(words: list[str]) -> str:
    """A command line for ninja: its own variables stay as they are, everything else is quoted for the shell."""
    return " ".join(word if word.startswith("$") else escape(shlex.quote(word)) for word in words)


def extension(name: str, *patterns: str) -> Extension:
    sources = sorted(path for pattern in patterns for path in ROOT.glob(pattern))
    if not X86_64:
        sources = [path for path in sources if not path.stem.endswith(("_avx2", "_avx512"))]
    return Extension(name, [path.relative_to(ROOT).as_posix() for path in sources])


class BuildExtensions(build_ext):
    """Builds through ninja; a CUDA part that cannot be built is left out, unless VERIFIX_CUDA=1."""

    def build_extensions(self) -> None:
        cpu, cuda = self.extensions
        built, outcome = self.try_cuda(cuda)
        print(f"verifix: CUDA part: {outcome}", flush=True)
        if not built:
            self.extensions = [cpu]
            # A part left by an earlier build must be neither packed nor imported beside the new one. A build for
            # `make sanitize` is for a folder of its own.
            for folder in (Path(self.build_lib), *(() if sanitize_flags() else (ROOT,))):
                (folder / "verifix" / Path(self.get_ext_filename(cuda.name)).name).unlink(missing_ok=True)
        self.make(cpu, cpu_toolchain(outcome))

    def try_cuda(self, extension: Extension) -> tuple[bool, str]:
        """Build the CUDA part as VERIFIX_CUDA wishes; say whether it is there, and how or why not."""
        wish = os.environ.get("VERIFIX_CUDA", "")
        if wish not in {"", "0", "1"}:
            raise SystemExit(f"VERIFIX_CUDA = {wish}: must be 0 (leave the CUDA part out), 1 (it must build) or unset")
        if wish == "0":
            return False, "left out, VERIFIX_CUDA=0"
        nvcc = find_nvcc()
        failure = "not built, no nvcc in CUDA_HOME, in PATH or in /usr/local/cuda"
        if nvcc is not None:
            try:
                version = subprocess.run([nvcc, "--version"], check=True, capture_output=True, text=True).stdout
                self.make(extension, cuda_toolchain(nvcc))
                release = re.search(r"release ([\d.]+)", version)
                return True, f"built, nvcc {release[1] if release else 'of unknown release'}"
            except (OSError, subprocess.CalledProcessError) as error:
                status = getattr(error, "returncode", None) or "it does not run"
                failure = f"not built, nvcc failed ({status})"
        if wish == "1":
            raise SystemExit(f"VERIFIX_CUDA=1, but the CUDA part is {failure}")
        return False, failure

    def make(self, extension: Extension, tools: Toolchain) -> None:
        folder = Path(self.build_temp).resolve() / extension.name
        ninja_file = NinjaFile(folder, tools, [pybind11.get_include(), sysconfig.get_path("include")])
        for source in extension.sources:
            ninja_file.compile(source)
        ninja_file.build(Path(self.get_ext_fullpath(extension.name)).resolve())


setup(
    ext_modules=[
        extension(
            "verifix._C",
            *("csrc/cpu/*.cpp", "csrc/bindings/plan.cpp", "csrc/bindings/forward.cpp", "csrc/bindings/*_cpu.cpp"),
        ),
        extension(
            "verifix._C_cuda",
            *("csrc/cuda/*.cu", "csrc/cuda/*.cpp", "csrc/cpu/plan.cpp", "csrc/bindings/plan.cpp"),
            "csrc/bindings/*_cuda.cpp",
        ),
    ],
    cmdclass={"build_ext": BuildExtensions},
)
