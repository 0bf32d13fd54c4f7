from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import verifix as vx
from tests.train.examples import digits, network, same_history, same_weights, settings, stop_after
from verifix.attack import attack_cascade
from verifix.cascade_file import Stage, read_cascade
from verifix.certify import Cascade
from verifix.certify.run import RunInterrupted
from verifix.data import Dataset
from verifix.errors import InvalidValue
from verifix.train import CascadeTraining, TrainSettings, hold_out, train, train_cascade
from verifix.train import cascade as cascade_module

HOW = settings(eps=0.12, epochs=4, lr=0.02, method="cap", validation=30)
STAGE = Stage("networks:net", "")


def run(stages: int = 3, **changes: Any) -> CascadeTraining:
    """On few digits; what is left after one stage is more than a batch."""
    how = changes.pop("settings", HOW)
    return train_cascade(network, changes.pop("data", digits(160)), how, stages=stages, **changes)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestToyProblem:
    """Figure 3.17: points of the plane that one network cannot certify all, and two can."""

    def points(self, seed: int) -> Dataset:
        """Twelve points of the unit square, at least two radii apart, with labels at random."""
        generator, points = torch.Generator().manual_seed(seed), torch.empty(0, 2)
        while len(points) < 12:
            point = torch.rand(1, 2, generator=generator)
            if bool(((points - point).abs().amax(1) >= 0.16).all()):
                points = torch.cat([points, point])
        return Dataset("toy", "train", points, torch.randint(2, (12,), generator=generator), classes=2)

    def network(self, number: int) -> nn.Sequential:
        torch.manual_seed(200 + number)
        return nn.Sequential(nn.Linear(2, 50), nn.ReLU(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 2))

    def how(self, epochs: int) -> TrainSettings:
        """All points in every step; eps rises in the first half."""
        return TrainSettings(
            eps=0.08, epochs=epochs, batch=12, validation=0, lr=0.01, eps_start=0.0, eps_ramp=epochs / 2
        )

    def test_two_stages_certify_more(self) -> None:
        data, ball = self.points(seed=2), vx.Ball("linf", 0.08)
        x, y = data.images, data.labels
        result = train_cascade(self.network, data, self.how(200), stages=2, least=1)
        first, both = (Cascade(result.models[:stages], ball).certify(x, y) for stages in (1, 2))
        assert both.verified.sum() > first.verified.sum()
        assert bool(both.verified[first.verified].all())
        assert [stage.examples for stage in result.stages] == [12, int((first.stages < 0).sum())]
        # nor does one network certify as much when it is trained for as long as the two together
        alone = self.network(0)
        train(alone, data, self.how(400))
        assert both.verified.sum() > vx.certify(alone, x, y, ball, "cap").verified.sum()

        cascade = Cascade(result.models, ball)
        assert not attack_cascade(cascade, x, steps=20, restarts=2).success.any()
        grid = torch.cartesian_prod(torch.linspace(-0.08, 0.08, 17), torch.linspace(-0.08, 0.08, 17))
        for point, label in zip(x[both.verified], y[both.verified], strict=True):
            near = point + grid
            answers = cascade.predict(near[cascade.around(point.expand_as(near).contiguous()).contains(near)])
            assert set(answers.labels.tolist()) <= {int(label), -1}


class TestStages:
    def test_each_stage_is_trained_on_what_is_left(self) -> None:
        data, epochs = digits(160), []
        result = run(data=data, on_epoch=lambda number, history: epochs.append((number, len(history))))
        rest, held_out = hold_out(data, HOW)
        assert held_out is not None
        assert len(result.stages) == len(result.models) == 3
        for number, stage in enumerate(result.stages):
            cascade = Cascade(result.models[: number + 1], HOW.ball(), "cap")
            before = Cascade(result.models[:number], HOW.ball(), "cap") if number else None
            asked = len(rest) if before is None else int((before.predict(rest.images).stages < 0).sum())
            assert (stage.number, stage.examples) == (number, asked)
            assert stage.left == int((cascade.predict(rest.images).stages < 0).sum())
            assert stage.examples > stage.left
            whole = cascade.certify(held_out.images, held_out.labels)
            right = (whole.stages >= 0) & (whole.predictions == held_out.labels)
            assert stage.errors is not None
            assert (stage.errors.examples, stage.errors.stagewise_error) == (30, (30 - int(right.sum())) / 30)
            assert stage.errors.certified_error == (30 - int(whole.verified.sum())) / 30
            assert stage.training.history[-1].train.examples == stage.examples
            validation = stage.training.history[-1].validation
            assert validation is not None
            assert validation.examples == (
                30 if before is None else int((before.predict(held_out.images).stages < 0).sum())
            )
        assert epochs == [(stage, epoch) for stage in range(3) for epoch in range(1, 5)]

    def test_the_first_stage_is_what_train_gives(self) -> None:
        alone = network(0)
        training = train(alone, digits(160), HOW)
        result = run(stages=1)
        assert same_weights(alone, result.models[0])
        assert same_history(training.history, result.stages[0].training.history)

    def test_stages_have_their_own_order(self) -> None:
        """The same network on the same data, which nothing is certified of: still not the same weights."""
        how = settings(eps=1.0, epochs=1, method="ibp", lr=1e-3)
        result = train_cascade(lambda number: network(0), digits(60), how, stages=2)
        assert result.stages[1].examples == result.stages[0].examples
        assert not same_weights(result.models[0], result.models[1])

    def test_ends_when_less_than_a_batch_is_left(self) -> None:
        three = run()
        assert three.stages[0].left >= 20
        assert len(run(least=three.stages[0].left).stages) > 1
        assert len(run(least=three.stages[0].left + 1).stages) == 1

    def test_ends_when_nothing_is_left(self) -> None:
        how = settings(eps=0.0, epochs=2, batch=20, validation=0)
        assert len(run(settings=how, stages=5, least=1).stages) == 1

    def test_nothing_left_to_validate_on(self) -> None:
        result = run(settings=settings(eps=0.12, epochs=4, lr=0.02, method="cap", validation=1, patience=2), stages=4)
        assert result.stages[0].errors is not None
        without = [stage.number for stage in result.stages if stage.training.history[-1].validation is None]
        assert without == list(range(without[0], len(result.stages)))
        assert without[0] > 0
        assert all(stage.training.best.epoch == 4 for stage in result.stages[without[0] :])

    def test_validation_limit(self) -> None:
        result = run(stages=1, settings=settings(epochs=1, validation=30, validation_limit=10))
        assert result.stages[0].errors is not None
        assert result.stages[0].errors.examples == 10

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"stages": 0}, "stages = 0: must be a whole number of at least 1"),
            ({"settings": settings(method="none", eps=0.0)}, "method = none: a cascade is made of what bounds certify"),
        ],
    )
    def test_refused(self, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
        with pytest.raises(InvalidValue, match=message):
            run(out=tmp_path / "run", **changes)
        assert not (tmp_path / "run").exists()


class TestFolder:
    def test_files(self, tmp_path: Path) -> None:
        result = run(out=tmp_path, stage=STAGE)
        assert {path.name for path in tmp_path.iterdir()} == {"cascade.json", "stage-0", "stage-1", "stage-2"}
        stages = read_cascade(tmp_path / "cascade.json")
        assert [stage.model for stage in stages] == ["networks:net"] * 3
        for stage, model in zip(stages, result.models, strict=True):
            from verifix.weights import read_weights

            assert same_weights(read_weights(stage.weights), model)
        history = json.loads((tmp_path / "cascade.json").read_text())["settings"]["history"]
        assert [entry["left"] for entry in history] == [stage.left for stage in result.stages]

    @pytest.mark.parametrize("steps", [1, 28, 29, 40, 59])
    def test_resumed(self, steps: int, tmp_path: Path) -> None:
        whole = run(out=tmp_path / "whole", stage=STAGE)
        with pytest.raises(RunInterrupted, match="run the same with --resume"):
            run(out=tmp_path / "run", stage=STAGE, progress=stop_after(steps), checkpoint_seconds=0)
        resumed = run(out=tmp_path / "run", stage=STAGE, resume=True)
        for one, other in zip(whole.models, resumed.models, strict=True):
            assert same_weights(one, other)
        before, after = contents(tmp_path / "whole"), contents(tmp_path / "run")
        same = [name for name in before if Path(name).name in ("cascade.json", "left.json", "best.safetensors")]
        assert len(same) == 7
        assert all(before[name] == after[name] for name in same)

    def test_stopped_while_it_certifies(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(cascade_module, "_stages", stop)
            with pytest.raises(RunInterrupted, match=r"stage-0: the stage is trained; run the same with --resume"):
                run(out=tmp_path)
        assert len(run(out=tmp_path, resume=True).stages) == 3

    def test_what_is_left_is_not_certified_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = run(out=tmp_path, stage=STAGE)
        before = contents(tmp_path)
        with monkeypatch.context() as patch:
            patch.delattr(cascade_module, "_stages")
            again = run(out=tmp_path, stage=STAGE, resume=True)
        assert [(stage.left, stage.errors) for stage in again.stages] == [
            (stage.left, stage.errors) for stage in whole.stages
        ]
        assert contents(tmp_path) == before

    @pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"weights": "other", "train": [], "validation": []}'])
    def test_what_was_left_by_other_weights_is(self, content: bytes, tmp_path: Path) -> None:
        run(out=tmp_path)
        before = contents(tmp_path)
        (tmp_path / "stage-1" / "left.json").write_bytes(content)
        run(out=tmp_path, resume=True)
        assert contents(tmp_path) == before

    def test_more_stages_later(self, tmp_path: Path) -> None:
        whole = run(out=tmp_path / "whole")
        run(out=tmp_path / "run", stages=1)
        for one, other in zip(whole.models, run(out=tmp_path / "run", resume=True).models, strict=True):
            assert same_weights(one, other)

    def test_refused(self, tmp_path: Path) -> None:
        run(out=tmp_path, stages=1)
        before = contents(tmp_path)
        with pytest.raises(InvalidValue, match="holds a run already"):
            run(out=tmp_path)
        with pytest.raises(InvalidValue, match=r"lr was 0\.02, now 0\.01"):
            run(out=tmp_path, resume=True, settings=settings(eps=0.12, epochs=4, lr=0.01, method="cap", validation=30))
        assert contents(tmp_path) == before

    def test_a_single_network_in_its_place(self, tmp_path: Path) -> None:
        train(network(), digits(160), HOW, out=tmp_path / "one")
        run(out=tmp_path / "many", stages=1, stage=STAGE)
        before = contents(tmp_path)
        with pytest.raises(InvalidValue, match="holds a training run: choose another folder"):
            run(out=tmp_path / "one", resume=True)
        with pytest.raises(InvalidValue, match="holds a cascade: choose another folder"):
            train(network(), digits(160), HOW, out=tmp_path / "many")
        assert contents(tmp_path) == before
