from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from tests.train.examples import digits, network, settings
from verifix.errors import InvalidValue
from verifix.report.landscape import averaged, averages, landscape_curves, landscape_figure
from verifix.report.landscape_figures import draw_landscape, labels
from verifix.report.slopes import slope_shares, slopes_figure
from verifix.report.violins import NetworkTightness, violins_figure
from verifix.train import train
from verifix.train.runs import TrainRun, read_run
from verifix.train.tightness import MarginBounds

ABOUT = {"model": "tests.train.examples:network", "mean": None, "std": None}


def curve(c: float, eps: float) -> dict[str, Any]:
    """Of a made-up measurement whose loss falls from c by 2 c, with multiples 0, 1, 5."""
    return {
        "eps": eps, "loss": [c, 0.5 * c, -c], "lowest": -c, "highest": c, "gradient": [1.0, 1.0, 1.0],
        "distance": [0.0, c, 3 * c], "rms": [0.0, c, 3 * c], "cosine": [0.0, c / 10, None],
    }  # fmt: skip


def made_up() -> TrainRun:
    """Four measurements, in epochs 0, 1, 2, 3; eps is reached at 3, and is 0 at first."""
    layer = {"node": "2", "method": 0, "units": 30, "unstable": 0.1, "slopes": None}
    half = [[0.5, 0.0, 0.0], [0.0, 0.0, 0.5]]
    lines = []
    for number, eps in enumerate((0.0, 0.1, 0.2, 0.3)):
        units = [
            layer,
            {**layer, "method": 1, "slopes": half if number else None, "unstable": 0.2 if number else 0.0},
            {**layer, "node": "4", "units": 10, "method": 1, "slopes": [[0.0, 0.25, 0.0], [0.0, 0.75, 0.0]],
             "unstable": 0.6},
        ]  # fmt: skip
        scheduled, target = curve(number + 1.0, eps), curve(10.0 * (number + 1), 0.3)
        lines.append({
            "position": float(number), "eps": eps, "target_eps": 0.3, "multiples": [0.0, 1.0, 5.0],
            "scheduled": scheduled, "target": target, "units": units,
        })  # fmt: skip
    how = settings(eps=0.3, eps_start=0.0, eps_ramp=3, epochs=4, method="ibp+crown-ibp")
    return TrainRun(Path("made-up"), how, {}, {}, tuple(lines))


class TestCurves:
    def test_are_those_of_the_log(self) -> None:
        found = landscape_curves("a", made_up(), "scheduled")
        assert found.ramp_end == 3.0
        assert found.loss.tolist() == [1.0, 2.0, 3.0, 4.0]
        assert found.variation.tolist() == [2.0, 4.0, 6.0, 8.0]
        assert found.distance.tolist() == found.distance_least.tolist() == [1.0, 2.0, 3.0, 4.0]
        assert found.distance_most.tolist() == [3.0, 6.0, 9.0, 12.0]
        assert found.cosine.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
        assert np.isnan(found.cosine_most).all()
        assert found.rising.tolist() == [False, True, True, False]
        assert landscape_curves("a", made_up(), "target").loss.tolist() == [10.0, 20.0, 30.0, 40.0]

    def test_means_are_over_the_ramp_and_sorted(self) -> None:
        smooth = landscape_curves("s", made_up(), "scheduled")
        rough = landscape_curves("r", made_up(), "target")
        found = averages([rough, smooth])
        assert found == {
            "variation": {"s": 5.0, "r": 50.0},
            "distance": {"s": 2.5, "r": 25.0},
            "cosine": {"s": pytest.approx(0.25), "r": pytest.approx(2.5)},
        }
        assert [list(of) for of in found.values()] == [["s", "r"]] * 3

    def test_neighbours_are_averaged_where_there_are_many(self) -> None:
        values = np.arange(1000.0)
        found = averaged(values, most=100)
        assert len(found) == 100
        assert found.tolist() == [4.5 + 10 * i for i in range(100)]
        assert averaged(values[:50], most=100) is not None
        assert averaged(values[:50], most=100).tolist() == values[:50].tolist()
        assert math.isnan(averaged(np.full(4, np.nan), most=2)[0])

    def test_picture_has_a_line_and_a_band_for_each_run(self) -> None:
        one = landscape_curves("one", made_up(), "scheduled")
        other = landscape_curves("other", made_up(), "target")
        figure = landscape_figure([one, other])
        loss, variation, distance, cosine = figure.axes
        assert [axes.get_ylabel() for axes in figure.axes[1:]] == [
            "loss variation", "gradient distance", "cosine distance"
        ]  # fmt: skip
        for axes, name, bands in ((loss, "loss", 2), (variation, "variation", 0), (distance, "distance", 2),
                                  (cosine, "cosine", 2)):  # fmt: skip
            drawn = [line for line in axes.lines if len(line.get_xdata()) == 4]  # type: ignore[arg-type]
            assert [line.get_ydata().tolist() for line in drawn] == [  # type: ignore[union-attr]
                getattr(one, name).tolist(), getattr(other, name).tolist()
            ]  # fmt: skip
            assert len(axes.collections) == bands
            assert [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2] == [3.0]  # type: ignore


class TestSlopes:
    def test_shares_are_over_all_layers(self) -> None:
        """Of the method with free lines; layers count by their unstable units: 30 * 0.2 = 10 * 0.6."""
        found = slope_shares("a", made_up())
        assert found is not None
        assert found.shares is not None
        first, *rest = found.shares.tolist()
        assert first == pytest.approx([0.0, 0.0, 0.25, 0.75, 0.0, 0.0])
        for row in rest:
            assert row == pytest.approx([0.25, 0.0, 0.125, 0.375, 0.0, 0.25])
        assert {name: values.tolist() for name, values in found.unstable.items()} == {
            "2": [0.0, 0.2, 0.2, 0.2], "4": [0.6] * 4
        }  # fmt: skip
        figure = slopes_figure([found])
        assert len(figure.axes[0].collections) == 6
        assert [text.get_text() for text in figure.legends[0].get_texts()][::2] == [
            "slope 0, |l| > |u|", "slope between, |l| > |u|", "slope 1, |l| > |u|"
        ]  # fmt: skip

    def test_none_without_bounds(self) -> None:
        run = made_up()
        bare = tuple({key: value for key, value in line.items() if key != "units"} for line in run.landscape)
        assert slope_shares("a", TrainRun(run.folder, run.settings, {}, {}, bare)) is None


class TestViolins:
    def test_a_loose_method_is_named_and_not_drawn(self) -> None:
        base = torch.linspace(0, 1, 50, dtype=torch.float64)
        methods = [
            MarginBounds(name, base + shift, base + shift) for name, shift in (("a", 0.0), ("b", 1.0), ("c", 90.0))
        ]
        figure = violins_figure([NetworkTightness("net", 0.1, methods)])
        for axes in figure.axes:
            assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
            assert axes.get_ylim()[1] < 3
            assert [text.get_text().splitlines()[1] for text in axes.texts] == ["90.5"]

    def test_means(self) -> None:
        bounds = MarginBounds("a", torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0.0, 1.0, 5.0]))
        assert NetworkTightness("net", 0.1, [bounds]).means() == {
            "a": {"total_mean": 3.0, "total_median": 2.0, "loss_mean": 2.0, "loss_median": 1.0}
        }


class TestDraw:
    def test_every_picture_with_its_numbers(self, tmp_path: Path) -> None:
        runs = []
        for method in ("ibp", "crown-ibp"):
            how = settings(method=method, epochs=2, eps_start=0.0)
            train(network(), digits(60), how, out=tmp_path / method, landscape_every=2, about=ABOUT,
                  sources={"data": "digits:train"})  # fmt: skip
            runs.append(read_run(tmp_path / method))
        out = tmp_path / "pictures"
        out.mkdir()
        drawn = draw_landscape(out, runs, limit=12, methods=("crown-ibp", "ibp"))
        names = ["landscape", "landscape_target", "slopes", "tightness"]
        assert drawn.written == [out / f"{name}.png" for name in names]
        assert drawn.left_out == {}
        assert {path.name for path in out.iterdir()} == {f"{name}.{kind}" for name in names for kind in ("png", "json")}
        assert all(imread(path).ndim == 3 for path in drawn.written)
        numbers = {name: json.loads((out / f"{name}.json").read_text()) for name in names}
        first = numbers["landscape"]["curves"][0]
        assert first["name"] == "ibp"
        assert first["loss"] == [line["scheduled"]["loss"][0] for line in runs[0].landscape]
        assert numbers["landscape"]["means_while_eps_rises"] == drawn.means
        assert numbers["slopes"]["runs"][0]["shares"] is None
        crown = numbers["slopes"]["runs"][1]
        assert crown["shares"][0] == [None] * 6  # at eps 0 no unit is unstable
        assert sum(crown["shares"][1]) == pytest.approx(1.0)
        tight = numbers["tightness"]["networks"][0]
        assert (tight["name"], tight["eps"], len(tight["methods"][0]["total"])) == ("ibp", 0.03, 12)

    def test_what_is_missing(self, tmp_path: Path) -> None:
        """By default the tightness is left out where it cannot be; a log is missed, and so is whatever is asked for."""
        train(network(), digits(60), settings(epochs=2), out=tmp_path / "run", landscape_every=4)
        train(network(), digits(60), settings(epochs=2), out=tmp_path / "bare", about=ABOUT)
        run, bare = read_run(tmp_path / "run"), read_run(tmp_path / "bare")
        out = tmp_path / "pictures"
        out.mkdir()
        drawn = draw_landscape(out, [run], data="digits", limit=3)
        assert [path.stem for path in drawn.written] == ["landscape", "landscape_target", "slopes"]
        assert "does not know its network's name" in drawn.left_out["tightness"]
        for runs, pictures, message in (
            ([run], ("tightness",), "does not know where its data lie|does not know its network's name"),
            ([run, bare], None, "bare: has no landscape log: train it with --landscape-every N"),
            ([bare], ("slopes",), "has no landscape log"),
            ([bare], ("tightness",), "does not know where its data lie"),
            ([run], ("landscapes",), "choose some of landscape, slopes, tightness"),
        ):
            with pytest.raises(InvalidValue, match=message):
                draw_landscape(tmp_path, runs, pictures=pictures)
        drawn = draw_landscape(out, [bare], pictures=("tightness",), data="digits:train", limit=3)
        assert [path.stem for path in drawn.written] == ["tightness"]

    def test_standard_training_has_no_slopes(self, tmp_path: Path) -> None:
        how = settings(method="none", eps=0.0, epochs=2)
        train(network(), digits(60), how, out=tmp_path, landscape_every=4)
        with pytest.raises(InvalidValue, match="no run was trained with bounds"):
            draw_landscape(tmp_path, [read_run(tmp_path)], pictures=("slopes",))
        assert draw_landscape(tmp_path, [read_run(tmp_path)]).left_out["slopes"] == "no run was trained with bounds"

    def test_runs_of_one_method_are_told_apart(self) -> None:
        run = made_up()
        assert labels([run]) == ["ibp+crown-ibp"]
        assert labels([run, run]) == ["ibp+crown-ibp (made-up)"] * 2
