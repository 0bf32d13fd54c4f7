from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from torch import Tensor, nn

from tests.train.examples import digits, network, same_history, same_weights, settings, stop_after
from verifix import capture
from verifix.certify.run import RunInterrupted
from verifix.errors import InvalidType, InvalidValue
from verifix.train import robust_loss, train
from verifix.train.landscape import landscape, multiples

pytestmark = pytest.mark.usefixtures("one_thread")


def read(folder: Path) -> list[dict[str, Any]]:
    """The log, without what it cost."""
    lines = [json.loads(line) for line in (folder / "landscape.jsonl").read_text().splitlines()]
    assert all(line.pop("cost")["seconds"] > 0 for line in lines)
    return lines


class TestMultiples:
    @pytest.mark.parametrize("points", [2, 3, 10, 41])
    def test_are_those_of_the_paper(self, points: int) -> None:
        found = multiples(points)
        grid = torch.logspace(math.log10(0.5), math.log10(5), points, dtype=torch.float64).tolist()
        assert found == pytest.approx(sorted([0.0, 1.0, *grid]), rel=1e-12)
        assert found[0] == 0.0
        assert 1.0 in found

    def test_refuses_others(self) -> None:
        with pytest.raises(InvalidValue, match=r"landscape_points = 1: must be at least 2"):
            multiples(1)
        with pytest.raises(InvalidType, match="landscape_points"):
            multiples(2.5)  # type: ignore[arg-type]


class TestLandscape:
    @limits(max_examples=30, deadline=None)
    @given(st.integers(0, 10**6), st.floats(1e-3, 0.3), st.integers(2, 6))
    def test_of_a_quadratic_is_what_algebra_says(self, seed: int, lr: float, points: int) -> None:
        """Of (1 + eps) w' A w / 2, whose gradient is (1 + eps) A w, for two eps, along the gradient of the first."""
        generator = torch.Generator().manual_seed(seed)
        root = torch.randn(5, 5, dtype=torch.float64, generator=generator)
        matrix, start = root @ root.T, torch.randn(5, dtype=torch.float64, generator=generator)
        first, second = nn.Parameter(start[:2].clone()), nn.Parameter(start[2:].clone())

        def quadratic(eps: float, draw: int) -> float:
            point = torch.cat([first, second])
            loss = (1 + eps) * (point @ matrix @ point) / 2
            loss.backward()  # type: ignore[no-untyped-call]
            return float(loss.detach())

        found = landscape([first, second], quadratic, lr=lr, eps=[0.25, 1.0], points=points)
        assert found.multiples == multiples(points)
        assert found.fresh is None
        direction = 1.25 * matrix @ start
        for curve, eps in zip(found.curves, (0.25, 1.0), strict=True):
            assert curve.eps == eps
            before = (1 + eps) * matrix @ start
            for number, c in enumerate(found.multiples):
                point = start - c * lr * direction
                gradient = (1 + eps) * matrix @ point
                apart = float((gradient - before).norm())
                assert curve.loss[number] == pytest.approx(float((1 + eps) * point @ matrix @ point / 2), rel=1e-9)
                assert curve.gradient[number] == pytest.approx(float(gradient.norm()), rel=1e-9)
                assert curve.distance[number] == pytest.approx(apart, rel=1e-9, abs=1e-12)
                assert curve.rms[number] == pytest.approx(apart / math.sqrt(5), rel=1e-9, abs=1e-12)
                cosine = torch.cosine_similarity(gradient, before, dim=0)
                assert curve.cosine[number] == pytest.approx(1 - float(cosine), rel=1e-7, abs=1e-12)
            assert curve.variation == (min(curve.loss), max(curve.loss))
        assert torch.equal(torch.cat([first, second]), start)

    @pytest.mark.parametrize("call", range(6))
    def test_leaves_no_trace_whatever_happens(self, call: int) -> None:
        torch.manual_seed(call)
        weight, unused, statistics = nn.Parameter(torch.randn(3)), nn.Parameter(torch.ones(2)), torch.zeros(3)
        gradient = torch.randn(3)
        weight.grad = gradient
        before, kept = weight.detach().clone(), gradient.clone()
        calls = 0

        def breaks(eps: float, draw: int) -> float:
            nonlocal calls
            calls += 1
            statistics.add_(1.0)
            loss = weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            if calls == call:
                raise KeyboardInterrupt
            return float(loss.detach())

        names: dict[str, Any] = {"lr": 0.1, "eps": [0.0], "points": 3, "buffers": [statistics]}
        if call:
            with pytest.raises(KeyboardInterrupt):
                landscape([weight, unused], breaks, **names)
            assert calls == call
        else:
            landscape([weight, unused], breaks, **names)
        assert torch.equal(weight, before)
        assert weight.grad is gradient
        assert torch.equal(gradient, kept)
        assert unused.grad is None
        assert not statistics.any()

    def test_fresh_draws_have_curves_of_their_own(self) -> None:
        weight = nn.Parameter(torch.ones(2, dtype=torch.float64))
        seen: list[tuple[float, int]] = []

        def noisy(eps: float, draw: int) -> float:
            seen.append((eps, draw))
            noise = torch.randn(2, dtype=torch.float64, generator=torch.Generator().manual_seed(draw))
            loss = (weight * noise).sum()  # the gradient is the noise, at every point
            loss.backward()  # type: ignore[no-untyped-call]
            return float(loss.detach())

        found = landscape([weight], noisy, lr=0.1, eps=[0.1, 0.2], points=2, fresh=True)
        assert {draw for _, draw in seen} == {0, 1, 2, 3}
        assert len(seen) == 16
        assert found.fresh is not None
        assert [curve.eps for curve in (*found.curves, *found.fresh)] == [0.1, 0.2, 0.1, 0.2]
        for curve in found.curves:
            assert curve.distance == (0.0,) * 4
        for curve in found.fresh:
            assert curve.distance[0] == 0.0
            assert min(curve.distance[1:]) > 0.1

    def test_what_is_not_finite_is_not_hidden(self) -> None:
        weight = nn.Parameter(torch.ones(1))

        def flat(eps: float, draw: int) -> float:
            loss = (0.0 * weight).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return math.nan if eps else float(loss.detach())

        level, unknown = landscape([weight], flat, lr=1.0, eps=[0.0, 1.0], points=2).curves
        assert level.variation == (0.0, 0.0)
        assert all(math.isnan(value) for value in level.cosine)
        assert all(math.isnan(value) for value in unknown.variation)


METHODS = ["ibp", "crown-ibp", "cap", "tight-smooth", "interval:random", "cap+ibp"]


class TestDuringTraining:
    @pytest.mark.parametrize("method", [*METHODS, "none"])
    def test_training_is_the_same_to_the_last_bit(self, method: str, tmp_path: Path) -> None:
        how = settings(method=method, clip=1.0, epochs=2, **({"eps": 0.0} if method == "none" else {}))
        plain, measured = network(), network()
        first = train(plain, digits(50), how)
        second = train(measured, digits(50), how, out=tmp_path, landscape_every=2)
        assert same_weights(plain, measured)
        assert same_weights(first.last, second.last)
        assert same_history(first.history, second.history)
        lines = read(tmp_path)
        assert [(line["epoch"], line["step"]) for line in lines] == [(1, 1), (1, 3), (2, 2)]
        for line in lines:
            assert line["position"] == line["epoch"] - 1 + (line["step"] - 1) / 3
            assert line["eps"] == how.eps_at(line["position"])
            assert (line["lr"], line["target_eps"]) == (how.lr, how.eps)
            assert line["multiples"] == list(multiples())
            assert line["fresh"] is None
            assert ("units" in line) == (method != "none")
            for name in ("scheduled", "target"):
                curve = line[name]
                assert curve["lowest"] == min(curve["loss"]) <= max(curve["loss"]) == curve["highest"]
                assert curve["distance"][0] == curve["rms"][0] == 0.0
                assert len(curve["loss"]) == len(curve["gradient"]) == len(curve["cosine"]) == 12
        for epoch in second.history:
            assert epoch.cost["landscape_seconds"] > 0
        assert "landscape_seconds" not in first.history[0].cost

    @pytest.mark.parametrize("mode", ["stored", "clean"])
    def test_batch_norm_keeps_its_statistics(self, mode: str, tmp_path: Path) -> None:
        """With all that an objective may have beside bounds."""

        def normed() -> nn.Sequential:
            torch.manual_seed(0)
            layers = (nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
            return nn.Sequential(nn.Flatten(), *layers)

        rest = {"beta": (1.0, 0.0), "kappa": (0.5, 0.0), "l1": 1e-4, "regulariser": 0.5, "initialisation": "ibp"}
        how = settings(method="tight-smooth", batch_norm=mode, epochs=3, eps_warmup=1.0, eps_ramp=1.0, **rest)
        plain, measured = normed(), normed()
        first = train(plain, digits(40), how)
        second = train(measured, digits(40), how, out=tmp_path, landscape_every=1, landscape_points=2)
        assert same_weights(plain, measured)
        assert same_weights(first.last, second.last)
        assert int(measured[2].num_batches_tracked) == (6 if mode == "clean" else 0)  # type: ignore[arg-type]
        lines = read(tmp_path)
        assert [line["eps"] for line in lines[:3]] == [0.0, 0.0, how.eps_start]
        assert lines[0]["scheduled"]["loss"] != lines[0]["target"]["loss"]
        assert lines[-1]["scheduled"] == lines[-1]["target"]

    @pytest.mark.parametrize("method", ["ibp", "crown-ibp", "cap"])
    def test_curves_are_those_of_the_robust_loss(self, method: str, tmp_path: Path) -> None:
        """The first line, about the network that training begins with, worked out again from the definition."""
        how = settings(method=method, validation=0, epochs=1, batch=30)
        data = digits(60)
        train(network().double(), data.to(torch.float64), how, out=tmp_path, landscape_every=9, landscape_points=3)
        (line,) = read(tmp_path)
        order = torch.randperm(60, generator=torch.Generator().manual_seed(how.stream("order", 0)))[:30]
        x, y = data.images[order].double(), data.labels[order]

        def at(model: nn.Module, eps: float) -> tuple[float, Tensor]:
            loss = robust_loss(capture(model, x), y, how.ball(eps).around(x), method)
            gradient = torch.autograd.grad(loss, list(model.parameters()))
            return float(loss.detach()), torch.cat([part.flatten() for part in gradient])

        starts = {name: at(network().double(), eps)[1] for name, eps in (("scheduled", 0.003), ("target", 0.03))}
        for number, c in enumerate(line["multiples"]):
            moved = network().double()
            flat = (
                torch.cat([part.detach().flatten() for part in moved.parameters()]) - c * how.lr * starts["scheduled"]
            )
            torch.nn.utils.vector_to_parameters(flat, moved.parameters())
            for name, eps in (("scheduled", 0.003), ("target", 0.03)):
                loss, gradient = at(moved, eps)
                start, curve = starts[name], line[name]
                assert curve["eps"] == pytest.approx(eps)
                assert curve["loss"][number] == pytest.approx(loss, rel=1e-9)
                assert curve["gradient"][number] == pytest.approx(float(gradient.norm()), rel=1e-9)
                assert curve["distance"][number] == pytest.approx(float((gradient - start).norm()), rel=1e-7, abs=1e-12)
                cosine = float(torch.cosine_similarity(gradient, start, dim=0))
                assert curve["cosine"][number] == pytest.approx(1 - cosine, abs=1e-9)

    def test_in_parts_it_is_the_same_batch(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        how = settings(method="crown-ibp", epochs=1)
        data = digits(40).to(torch.float64)
        train(network().double(), data, how, out=tmp_path / "whole", landscape_every=2)
        monkeypatch.setattr("verifix.train.trainer.inputs_per_step", lambda *_: 7)
        train(network().double(), data, how, out=tmp_path / "parts", landscape_every=2)
        whole, parts = read(tmp_path / "whole"), read(tmp_path / "parts")
        assert [line["units"] for line in whole] == [line["units"] for line in parts]
        for one, other in zip(whole, parts, strict=True):
            for name in ("loss", "gradient", "distance"):
                assert one["target"][name] == pytest.approx(other["target"][name], rel=1e-6, abs=1e-12)

    def test_draws_are_common_unless_fresh_ones_are_wanted(self, tmp_path: Path) -> None:
        """Estimated norms: with the same projections the loss hardly moves in half a tiny step, with others it does."""
        torch.manual_seed(0)
        layers = (nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 10))
        how = settings(method="cap", estimator="median:5", lr=1e-9, epochs=1, eps=0.1, eps_start=0.1, batch=10)
        train(nn.Sequential(nn.Flatten(), *layers), digits(10), how, out=tmp_path, landscape_every=9,
              landscape_fresh=True)  # fmt: skip
        (line,) = read(tmp_path)

        def spread(curve: dict[str, Any]) -> float:
            return float(curve["highest"] - curve["lowest"])

        assert spread(line["scheduled"]) < 1e-4 * line["scheduled"]["highest"]
        assert spread(line["fresh"]["scheduled"]) > 1e-3 * line["scheduled"]["highest"]
        assert line["fresh"]["scheduled"]["loss"][0] == line["scheduled"]["loss"][0]

    @pytest.mark.parametrize("method", ["tight-smooth", "interval:random"])
    def test_slopes_are_common_draws_too(self, method: str, tmp_path: Path) -> None:
        how = settings(method=method, lr=1e-9, epochs=1, eps=0.1, eps_start=0.1)
        train(network(), digits(20), how, out=tmp_path, landscape_every=9, landscape_fresh=True)
        (line,) = read(tmp_path)
        common, fresh = line["scheduled"]["distance"], line["fresh"]["scheduled"]["distance"]
        assert 100 * max(common) < min(fresh[1:])

    def test_fresh_draws_of_a_method_without_any_are_the_common_ones(self, tmp_path: Path) -> None:
        train(network(), digits(20), settings(epochs=1), out=tmp_path, landscape_every=9, landscape_fresh=True)
        (line,) = read(tmp_path)
        assert line["fresh"] == {"scheduled": line["scheduled"], "target": line["target"]}


class TestLog:
    HOW = settings(epochs=2, optimiser="sgd", lr=0.1)

    @pytest.mark.parametrize("seconds", [0, 1e9], ids=["every step", "every epoch"])
    def test_no_line_is_lost_or_repeated(self, seconds: float, tmp_path: Path) -> None:
        whole = network()
        train(whole, digits(), self.HOW, out=tmp_path / "whole", landscape_every=2)
        expected = read(tmp_path / "whole")
        assert len(expected) == 5
        for stop in (2, 5, 8):  # of 5 steps in an epoch
            out, again = tmp_path / str(stop), network()
            with pytest.raises(RunInterrupted):
                train(network(), digits(), self.HOW, out=out, progress=stop_after(stop), landscape_every=2,
                      checkpoint_seconds=seconds)  # fmt: skip
            with (out / "landscape.jsonl").open("a") as stream:
                stream.write('{"epoch": 1, "st')  # as of a process that was killed while it wrote
            train(again, digits(), self.HOW, out=out, resume=True, landscape_every=2)
            assert same_weights(again, whole)
            assert read(out) == expected
        kept = (tmp_path / "whole" / "landscape.jsonl").read_bytes()
        train(network(), digits(), self.HOW, out=tmp_path / "whole", resume=True, landscape_every=2)
        assert (tmp_path / "whole" / "landscape.jsonl").read_bytes() == kept

    def test_lines_that_are_gone_are_missed(self, tmp_path: Path) -> None:
        train(network(), digits(), self.HOW, out=tmp_path, landscape_every=5)
        path = tmp_path / "landscape.jsonl"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(InvalidValue, match=r"landscape.jsonl: has lost lines that the checkpoint counts"):
            train(network(), digits(), self.HOW, out=tmp_path, resume=True, landscape_every=5)

    def test_lines_of_two_kinds_do_not_meet(self, tmp_path: Path) -> None:
        train(network(), digits(), self.HOW, out=tmp_path, landscape_every=5)
        with pytest.raises(InvalidValue, match=r"landscape_every was 5, now 4"):
            train(network(), digits(), self.HOW, out=tmp_path, resume=True, landscape_every=4)
        with pytest.raises(InvalidValue, match=r"landscape_every was 5, now absent"):
            train(network(), digits(), self.HOW, out=tmp_path, resume=True)

    def test_what_a_dead_run_left_goes(self, tmp_path: Path) -> None:
        (tmp_path / "landscape.jsonl").write_text("{}\n")
        train(network(), digits(), self.HOW, out=tmp_path)
        assert not (tmp_path / "landscape.jsonl").exists()

    @pytest.mark.parametrize(
        ("changes", "every", "message"),
        [
            ({"method": "pgd"}, 1, "method pgd trains at points that differ with every draw"),
            ({"method": "gaussian", "eps": 0.0, "sigma": 0.5}, 1, "method gaussian trains at points"),
            ({}, 0, "must be at least 1"),
        ],
    )
    def test_refusals_come_before_anything_is_written(
        self, changes: dict[str, Any], every: int, message: str, tmp_path: Path
    ) -> None:
        out = tmp_path / "run"
        with pytest.raises(InvalidValue, match=message):
            train(network(), digits(), settings(**changes), out=out, landscape_every=every)
        assert not out.exists()

    def test_a_log_needs_a_folder(self) -> None:
        with pytest.raises(InvalidValue, match="landscape_every = 1: needs a folder"):
            train(network(), digits(), self.HOW, landscape_every=1)
