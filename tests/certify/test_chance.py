"""Certificates with a stated probability: what they say, what is written, and that estimates are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import verifix as vx
from tests.networks import relu_network
from verifix.bounds import Estimator, parse_method
from verifix.certify import Cascade, certify_run
from verifix.cli.main import main
from verifix.data import Dataset


def network() -> tuple[nn.Module, Tensor, Tensor]:
    model = relu_network((140, 150, 145, 140, 3), 0).float()
    x = torch.rand(12, 140, generator=torch.Generator().manual_seed(0))
    return model, x, model(x).argmax(1)


GEOMETRIC = Estimator("geometric", 120, delta=0.05, seed=3)


@pytest.mark.parametrize("eps", [0.002, 0.006])
def test_the_result_says_with_which_probability_it_holds(eps: float) -> None:
    model, x, y = network()
    ball = vx.Ball("linf", eps)
    exact = vx.certify(model.double(), x.double(), y, ball, "cap")
    result = vx.certify(model.float(), x, y, ball, vx.Method("backward", "same", GEOMETRIC))
    assert exact.confidence is None
    assert result.confidence is not None
    assert (result.confidence.delta, result.confidence.k, result.confidence.seed) == (0.05, 120, 3)
    assert result.confidence.estimates.tolist() == [145 + 140] * 12
    assert result.recomputed.all()  # in float64, from the start
    assert result.margins.dtype == torch.float32
    # not better than the exact ones, but nearly as good
    assert (result.verified <= exact.verified).all()
    assert (result.margin <= exact.margin + 1e-6).all()
    assert result.verified.any()
    assert (result.margin > exact.margin - 1.0).all()


def test_the_best_of_several_shares_the_probability() -> None:
    model, x, y = network()
    methods = parse_method("cap+filtered:same+ibp", GEOMETRIC)
    result = vx.certify(model, x, y, vx.Ball("linf", 0.002), methods)
    assert result.confidence is not None
    assert result.confidence.delta == pytest.approx(0.05)
    assert [method.estimator.delta for method in result.methods] == [0.025, 0.025, None]
    alone = vx.certify(model, x, y, vx.Ball("linf", 0.002), methods[0])
    assert alone.confidence is not None
    assert (result.confidence.estimates >= alone.confidence.estimates).all()


def test_it_does_not_depend_on_the_batch_or_the_budget() -> None:
    model, x, y = network()
    ball, method = vx.Ball("linf", 0.004), vx.Method("backward", "same", GEOMETRIC)
    whole = vx.certify(model, x, y, ball, method)
    parts = [vx.certify(model, x[i : i + 5], y[i : i + 5], ball, method, memory=32 << 20) for i in (0, 5, 10)]
    margins = torch.cat([part.margin for part in parts])
    torch.testing.assert_close(whole.margin, margins, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("estimator", ["median:20", "gaussian:20"])
def test_estimates_are_refused(estimator: str, tmp_path: Path) -> None:
    model, x, y = network()
    ball = vx.Ball("l2" if estimator.startswith("gauss") else "linf", 0.01)
    with pytest.raises(ValueError, match="estimates, not bounds"):
        vx.certify(model, x, y, ball, parse_method("cap", estimator))
    data = Dataset("drawn", "test", x, y, 3)
    with pytest.raises(ValueError, match="estimates, not bounds"):
        certify_run(model, data, ball, out=tmp_path / "run", estimator=Estimator.parse(estimator))
    assert not (tmp_path / "run").exists()


def test_too_few_rows_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    model, x, y = network()
    data = Dataset("drawn", "test", x, y, 3)
    with pytest.raises(ValueError, match=r"k = \d+ would do"):
        certify_run(model, data, vx.Ball("linf", 0.01), out=tmp_path / "run", estimator=Estimator("geometric", 20))
    assert not (tmp_path / "run").exists()
    # where nothing has more entries than rows, nothing is estimated
    small = relu_network((20, 15, 10, 3), 0).float()
    drawn = Dataset("drawn", "test", x[:, :20], small(x[:, :20]).argmax(1), 3)
    summary = certify_run(
        small, drawn, vx.Ball("linf", 0.01), out=tmp_path / "run", estimator=Estimator("geometric", 20)
    )
    assert summary["confidence"]["estimates"] == 0


def test_cascades_are_certified_exactly() -> None:
    model, _, _ = network()
    with pytest.raises(ValueError, match="use exact"):
        Cascade([model], vx.Ball("linf", 0.01), parse_method("cap", GEOMETRIC))


def test_runs_carry_it_line_by_line(tmp_path: Path) -> None:
    model, x, y = network()
    y = y.clone()
    y[:2] = (y[:2] + 1) % 3  # two that the network gets wrong: never certified
    data = Dataset("drawn", "test", x, y, 3)
    ball = vx.Ball("linf", 0.014)
    summary = certify_run(model, data, ball, out=tmp_path / "run", estimator=GEOMETRIC, batch=5)
    lines = [json.loads(line) for line in (tmp_path / "run/results.jsonl").read_text().splitlines()]
    assert [(line["delta"], line["k"], line["m"], line["estimates"]) for line in lines] == [(0.05, 120, 1, 285)] * 12
    verified = sum(line["verdict"] == "verified" for line in lines)
    assert 0 < verified < 10
    assert summary["confidence"] == {
        "delta": 0.05, "k": 120, "m": 1, "estimates": 12 * 285, "most_estimates": 285, "certain": 0,
        "delta_of_all": pytest.approx(0.05 * 10),  # of all that might have been verified
    }  # fmt: skip
    with pytest.raises(ValueError, match="estimator_seed"):
        other = Estimator("geometric", 120, delta=0.05, seed=4)
        certify_run(model, data, ball, out=tmp_path / "run", estimator=other, batch=5, resume=True)
    again = certify_run(model, data, ball, out=tmp_path / "run", estimator=GEOMETRIC, batch=5, resume=True)
    assert again["confidence"] == summary["confidence"]


def test_the_summary_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["certify", "verifix.zoo:digits_small", "--data", "digits", "--eps", "0.01", "--limit", "3"]
    assert main([*arguments, "--estimator", "geometric:100", "--delta", "0.05", "--out", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert "cap, geometric:100" in shown
    assert "with probability at least 0.95" in shown
    settings = json.loads((tmp_path / "run/settings.json").read_text())["settings"]
    assert (settings["estimator"], settings["delta"], settings["estimator_seed"]) == ("geometric:100", 0.05, 0)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["certify", "verifix.zoo:mnist_small", "--data", "digits", "--eps", "0.01", "--out", str(tmp_path / "run")]
    assert main([*base, "--estimator", "median:50"]) == 2
    assert "estimates, not bounds" in capsys.readouterr().err
    assert main([*base, "--estimator", "geometric", "--delta", "2"]) == 2
    assert "delta" in capsys.readouterr().err
    assert main([*base, "--estimator", "geometric", "--method", "crown"]) == 2
    assert "nothing to estimate" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
