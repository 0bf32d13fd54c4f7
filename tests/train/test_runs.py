from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.train.examples import digits, network, same_weights, settings
from verifix.errors import InvalidValue
from verifix.train import train
from verifix.train.runs import read_run

pytestmark = pytest.mark.usefixtures("one_thread")
ABOUT = {"model": "tests.train.examples:network", "mean": None, "std": None}


def trained(folder: Path) -> Path:
    train(network(), digits(40), settings(epochs=2), out=folder, landscape_every=1, about=ABOUT,
          sources={"data": "digits"})  # fmt: skip
    return folder


class TestReadRun:
    def test_knows_what_the_folder_knows(self, tmp_path: Path) -> None:
        model = network()
        how = settings(epochs=2)
        train(model, digits(40), how, out=tmp_path, landscape_every=2, about=ABOUT, sources={"data": "digits"})
        run = read_run(tmp_path)
        assert (run.folder, run.settings) == (tmp_path, how)
        assert (run.about["model"], run.about["landscape_every"], run.sources) == (
            ABOUT["model"],
            2,
            {"data": "digits"},
        )
        assert [line["position"] for line in run.landscape] == [0.0, 1.0]
        again = run.network(digits(1))
        assert same_weights(again, model)  # which holds its best weights after training
        assert next(again.parameters()).dtype == torch.float32

    def test_half_a_line_is_still_being_written(self, tmp_path: Path) -> None:
        path = trained(tmp_path) / "landscape.jsonl"
        whole = path.read_text()
        path.write_text(whole + '{"epoch": 9, "st')
        assert len(read_run(tmp_path).landscape) == len(whole.splitlines()) == 4

    def test_refusals(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidValue, match="is no training run, it has no settings"):
            read_run(tmp_path / "nowhere")
        folder = trained(tmp_path / "run")
        (folder / "best.safetensors").unlink()
        with pytest.raises(InvalidValue, match="has no best weights yet"):
            read_run(folder).network(digits(1))
        log = folder / "landscape.jsonl"
        log.write_text("{}\n" + log.read_text())
        with pytest.raises(InvalidValue, match=r"landscape.jsonl, line 1: is damaged"):
            read_run(folder)
        settings_file = folder / "settings.json"
        for content, message in (
            (json.dumps({"settings": {"eps": 0.1, "method": "cap"}}), "holds a run of another kind"),
            ("[1, 2]", "is damaged"),
            ("{", "is damaged"),
        ):
            settings_file.write_text(content)
            with pytest.raises(InvalidValue, match=message):
                read_run(folder)

    def test_a_run_of_the_library_may_not_know_its_network(self, tmp_path: Path) -> None:
        train(network(), digits(40), settings(epochs=2), out=tmp_path)
        run = read_run(tmp_path)
        assert run.landscape == ()
        with pytest.raises(InvalidValue, match="does not know its network's name"):
            run.network(digits(1))
