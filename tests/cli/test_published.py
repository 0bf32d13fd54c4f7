"""``verifix certify`` on the networks that the authors of the literature published, against the figures they report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class TestPublished:
    """What the authors of the weights report; and 23 and 21 of the first 400 counted by another implementation."""

    MNIST = ("convex_adversarial/mnist.pth", "--eps", "0.1")
    CASCADE = ("convex_adversarial/mnist_small_0_3.pth#0", "--eps", "0.3", "--box", "0", "1")
    CIFAR = (
        "convex_adversarial/cifar_small_8px.pth#0", "--eps", "0.031275",
        "--mean", "0.485", "0.456", "0.406", "--std", "0.225", "0.225", "0.225",
    )  # fmt: skip

    def run(self, verifix: Callable[..., Any], folders: tuple[Path, Path], out: Path, *options: str) -> dict[str, Any]:
        data_dir, models_dir = folders
        cifar = "cifar" in options[0]
        data = f"cifar10:{data_dir / 'cifar-10-batches-bin'}" if cifar else f"mnist:{data_dir / 'mnist'}"
        model = "verifix.zoo:cifar_small" if cifar else "verifix.zoo:mnist_small"
        weights, *rest = options
        given = (
            model,
            "--weights",
            f"{models_dir}/{weights}",
            "--data",
            data,
            "--norm",
            "linf",
            "--method",
            "cap",
            *rest,
        )
        assert verifix("certify", *given, "--out", out).status == 0
        summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
        return summary

    @pytest.mark.parametrize(("box", "uncertified"), [((), 23), (("--box", "0", "1"), 21)])
    def test_first_images(
        self,
        verifix: Callable[..., Any],
        data_dir: Path,
        models_dir: Path,
        tmp_path: Path,
        box: tuple[str, ...],
        uncertified: int,
    ) -> None:
        summary = self.run(verifix, (data_dir, models_dir), tmp_path / "run", *self.MNIST, *box, "--limit", "400")
        assert summary["certified_error"] == uncertified / 400

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("options", "clean_error", "certified_error"),
        [(MNIST, 0.0180, 0.0582), (CASCADE, 0.1477, 0.4312), (CIFAR, 0.7240, 0.7942)],
        ids=["mnist", "mnist-cascade-0", "cifar-cascade-0"],
    )
    def test_whole_test_set(
        self,
        verifix: Callable[..., Any],
        data_dir: Path,
        models_dir: Path,
        tmp_path: Path,
        options: tuple[str, ...],
        clean_error: float,
        certified_error: float,
    ) -> None:
        summary = self.run(verifix, (data_dir, models_dir), tmp_path / "run", *options)
        assert summary["n"] == 10_000
        assert (summary["clean_error"], summary["certified_error"]) == (clean_error, certified_error)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("options", "stagewise_error", "certified_error", "certified"),
        [(CASCADE, 0.3364, 0.3698, [5862, 2838, 1300]), (CIFAR, 0.7171, 0.7677, [6557, 2364, 1079])],
        ids=["mnist", "cifar"],
    )
    def test_whole_cascades(
        self,
        verifix: Callable[..., Any],
        data_dir: Path,
        models_dir: Path,
        tmp_path: Path,
        options: tuple[str, ...],
        stagewise_error: float,
        certified_error: float,
        certified: list[int],
    ) -> None:
        """The robust errors that were published are those by stages; certified ones hold for the whole cascade."""
        weights, *rest = options
        summary = self.run(verifix, (data_dir, models_dir), tmp_path / "run", weights.removesuffix("#0"), *rest)
        assert summary["n"] == 10_000
        assert (summary["stagewise_error"], summary["certified_error"]) == (stagewise_error, certified_error)
        assert [stage["certified"] for stage in summary["stages"]] == certified
