"""``verifix compare``: what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli import comparing
from tests.cli.comparing import compare

NETWORKS = comparing.NETWORKS


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--methods", "ibp,caps"], "method = 'caps': of caps at 0.05: choose one of ibp"),
            (["--methods", "ibp,tight-smooth:step=-1"], "step"),
            (["--methods", "ibp,crown-ibp,ibp"], "methods = ibp:0.05:0: is the same as ibp:0.05:0"),
            (["--methods", "cap,backward:same"], "methods = backward:same:0.05:0: is the same as cap:0.05:0"),
            (["--methods", "ibp,gaussian"], "methods = gaussian: trains for randomized smoothing"),
            (["--methods", "ibp,msd"], "methods = msd: trains for unions of balls"),
            (["--methods", "ibp(eps=1)"], "methods = ibp(eps=1): eps differs from cell to cell"),
            (["--methods", "ibp,cap(norm='l2')"], "methods = cap(norm='l2'): norm is that of the test, the same for"),
            (["--methods", "ibp,cap(box=(0, 2))"], "methods = cap(box=(0, 2)): box is that of the test, the same for"),
            (["--methods", "ibp,,cap"], "methods = ibp, , cap: has an empty name"),
            (["--landscape-points", "3"], "landscape_points = 3: goes with --landscape-every"),
            (["--landscape-fresh"], "landscape_fresh = True: goes with --landscape-every"),
            (["--methods", "ibp(lr)"], "methods = ibp(lr): settings go by name"),
            (["--methods", "ibp(rate=1)"], "rate"),
            (["--methods", "ibp,cap(lr=0)"], "lr = 0: of cap(lr=0) at 0.05: must be finite and above 0"),
            (["--eps", "0.05,0.05"], "methods = ibp:0.05:0: is the same as ibp:0.05:0"),
            (["--eps", "0"], "eps = 0.0: must be above 0"),
            (["--eps", "0.05,0.1", "--eps-train", "0.05"], "eps_train = 0.05: give one radius for each of the 2"),
            (["--eps", "0.05", "--eps-train", "0.04"], "eps_train = 0.04: must be at least eps = 0.05"),
            (["--beta", "2", "0"], "beta"),
            (
                ["--beta", "1", "0", "--methods", "ibp,fgsm"],
                "beta = (1.0, 0.0): of ibp at 0.05: mixes a bound with that of",
            ),
            (["--initialisation", "ibp", "--weights", "w.pth"], "weights = w.pth: --initialisation draws new ones"),
            (["--certify-method", "ibp+x"], "method = 'x': choose one of"),
            (["--data", "digits:train"], "data = digits:train: both sets are used"),
            (["--data", "npz:x.npz"], "test_data = None: npz:x.npz holds a single set"),
            (["--box", "0", "0.5"], "inputs outside the box"),
            (["--only", "ibp:0.05:1"], "only = ibp:0.05:1: is no cell"),
            (["--memory", "1000"], "memory = 1000: "),
            (["--validation", "90"], "validation = 90.0: leaves nothing of 90 examples to train on"),
            (["--seeds", "1,x"], "'x' is no whole number"),
        ],
    )
    def test_one_line_and_nothing_written(
        self, refuses: Callable[..., None], arguments: list[str], message: str
    ) -> None:
        refuses(compare(*arguments), message)

    @pytest.mark.parametrize(
        ("model", "message"),
        [
            ("networks:ends_with_relu", "is not linear: give logits"),
            ("networks:too_few_classes", "gives 4 outputs, but the data has 10 classes"),
            ("networks:for_vectors", "MODEL = networks:for_vectors: fails on inputs of shape (2, 1, 8, 8)"),
        ],
    )
    def test_a_network_that_does_not_fit(self, refuses: Callable[..., None], model: str, message: str) -> None:
        refuses(compare(model=model), message)

    def test_a_test_set_that_does_not_fit(self, refuses: Callable[..., None], place: Path) -> None:
        np.savez(place / "small.npz", x=np.zeros((3, 5), dtype=np.float32), y=np.array([0, 1, 2]))
        refuses(compare("--test-data", "npz:small.npz"), "does not fit the training set")

    def test_a_folder_with_something_else(self, verifix: Callable[..., Any], place: Path) -> None:
        assert verifix(*compare("--methods", "ibp")).status == 0
        again = verifix(*compare("--methods", "ibp"))
        assert again.status == 2 and "out = run: holds a comparison already: add --resume" in again.err
        other = verifix(*compare("--methods", "ibp", "--resume", "--lr", "0.02", "--eps", "0.1"))
        assert other.status == 2 and "lr was 0.01, now 0.02" in other.err and "eps was 0.05, now 0.1" in other.err
        single = ["--data", "digits", "--eps", "0.1", "--limit", "5", "--out", "run"]
        refused = verifix("certify", "networks:net", *single)
        assert refused.status == 2 and "out = run: holds a comparison: choose another folder" in refused.err
        assert verifix("certify", "networks:net", *single[:-1], "c").status == 0
        assert "holds results of certify" in verifix(*compare("--methods", "ibp", out="c")).err
