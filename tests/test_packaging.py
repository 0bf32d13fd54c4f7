"""The package as a stranger gets it: source archive, wheel from it, and the wheel used far from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
PARTS = [
    "csrc",
    "verifix",
    "tests",
    "bench",
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "Makefile",
    "constraints.txt",
]
DOCUMENTS = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"]


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    environment = {**os.environ, "VERIFIX_CUDA": "0", **environment}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, made from a copy of the checkout without anything that was built in it."""
    folder = tmp_path_factory.mktemp("source")
    for name in [*PARTS, *DOCUMENTS]:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(source, folder / name)
    code = "from setuptools import build_meta; build_meta.build_sdist('dist')"
    run(sys.executable, "-c", code, cwd=folder)
    (made,) = (folder / "dist").glob("verifix-*.tar.gz")
    return made


@pytest.fixture(scope="module")
def wheel(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", ".", archive, cwd=folder)
    (made,) = folder.glob("verifix-*.whl")
    return made


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel; the other packages are those of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin/python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    return folder


def test_source_archive_has_all_sources_and_nothing_built(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        names = {name.split("/", 1)[1] for name in tar.getnames() if "/" in name}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").rglob("*") if path.is_file()}
    assert sources and sources <= names
    assert set(DOCUMENTS) <= names
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc"))]


def test_wheel_has_the_extension_the_types_and_the_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if name.startswith("verifix/_C.") and name.endswith(".so")]
    assert not [name for name in names if "_C_cuda." in name and name.endswith(".so")], "left out, VERIFIX_CUDA=0"
    assert {"verifix/py.typed", "verifix/_C.pyi", "verifix/data/digits.npz"} <= set(names)
    assert not [name for name in names if not name.startswith(("verifix/", "verifix-"))]


def test_installed_wheel_works_outside_the_checkout(environment: Path, tmp_path: Path) -> None:
    code = """
import json, torch, verifix
from verifix import _C
from verifix.kernels import abs_median, native, reference
x = torch.randn(5, 50, 300)
same = all(torch.equal(a, b) for a, b in zip(abs_median(x), reference.abs_median(x)))
print(json.dumps([verifix.__file__, _C.__file__, same, native.config()["cuda"]["build"]]))
"""
    package, extension, same, cuda = json.loads(run(environment / "bin/python", "-I", "-c", code, cwd=tmp_path))
    assert Path(package).is_relative_to(environment) and Path(extension).is_relative_to(environment)
    assert same
    assert cuda == "left out, VERIFIX_CUDA=0"


def test_installed_command_works_outside_the_checkout(environment: Path, tmp_path: Path) -> None:
    facts = json.loads(run(environment / "bin/verifix", "info", "--json", cwd=tmp_path, PYTHONPATH=""))
    assert facts["cpu"]["built"] and not facts["cuda"]["built"]
