from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pytest
import torch

from verifix.cli.options import apply_common, byte_count, folder, natural, number, positive
from verifix.errors import InvalidValue


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (number, "8/255", 8 / 255),
        (number, "-0.5", -0.5),
        (number, "1e-3", 0.001),
        (number, "1.5 / 2", 0.75),
        (positive, "3", 3),
        (natural, "0", 0),
        (natural, str(2**63 - 1), 2**63 - 1),
        (byte_count, "2GiB", 2 << 30),
        (byte_count, "1.5 mib", 3 << 19),
        (byte_count, "500MB", 500_000_000),
        (byte_count, "4096", 4096),
    ],
)
def test_read(read: Callable[[str], Any], text: str, value: float) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "text"),
    [
        *((number, text) for text in ("", "x", "1/0", "1/2/3", "/", "1/", "8/x")),
        *((positive, text) for text in ("0", "-1", "1.5", "", "x", "²")),
        *((natural, text) for text in ("-1", "1.5", str(2**63))),
        *((folder, text) for text in ("", " ")),
        *((byte_count, text) for text in ("", "GiB", "2 GG", "-1", "0", "0.1", "1e3")),
    ],
)
def test_refused(read: Callable[[str], Any], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        read(text)
    assert repr(text) in str(caught.value)


class TestApply:
    @staticmethod
    def args(**changes: Any) -> argparse.Namespace:
        return argparse.Namespace(**({"seed": 0, "threads": None, "device": "cpu"} | changes))

    def test_seed(self) -> None:
        apply_common(self.args(seed=5))
        first = torch.rand(3)
        apply_common(self.args(seed=5))
        assert torch.equal(torch.rand(3), first)

    def test_threads(self) -> None:
        before = torch.get_num_threads()
        try:
            apply_common(self.args(threads=1))
            assert torch.get_num_threads() == 1
        finally:
            torch.set_num_threads(before)

    @pytest.mark.parametrize("device", ["gpu", "", "meta", "cuda:77", "cpu:x"])
    def test_device(self, device: str) -> None:
        with pytest.raises(InvalidValue, match="device = "):
            apply_common(self.args(device=device))


def test_every_run_refuses_a_folder_without_a_name(verifix: Callable[..., Any]) -> None:
    for command in ("certify", "attack", "radius", "train", "compare", "landscape"):
        status, out, err = verifix(command, "model", "--out", "")
        assert (status, out) == (2, "")
        assert "argument --out: '' is no folder: name one" in err
