from __future__ import annotations

import gzip
import lzma
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from verifix.data import Dataset, load
from verifix.errors import InvalidValue

PLAIN: Callable[[bytes], bytes] = bytes
COMPRESSED = pytest.mark.parametrize(
    ("suffix", "compress"), [("", PLAIN), (".gz", gzip.compress), (".xz", lzma.compress)]
)


def idx(values: np.ndarray, magic: int | None = None) -> bytes:
    magic = 0x800 + values.ndim if magic is None else magic
    return struct.pack(f">{1 + values.ndim}I", magic, *values.shape) + values.astype(np.uint8).tobytes()


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 5, 4), dtype=np.uint8)


@pytest.fixture
def labels() -> np.ndarray:
    return np.array([3, 1, 4, 1, 5, 9, 2], np.uint8)


@pytest.fixture
def mnist(tmp_path: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(images))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(labels))
    return tmp_path


def refused(spec: str) -> str:
    """The message of the error that ``spec`` gives: one line."""
    with pytest.raises(InvalidValue) as caught:
        load(spec)
    message = str(caught.value)
    assert "\n" not in message
    return message


class TestSpec:
    @pytest.mark.parametrize(
        "spec", ["", "mnist", "mnist:", "digits:DIR", "imagenet:DIR", "npz", ":test", "digits:test:train"]
    )
    def test_unknown(self, spec: str) -> None:
        assert "use digits, mnist:DIR" in refused(spec)

    @pytest.mark.parametrize("name", ["mnist", "cifar10"])
    def test_missing_folder(self, name: str, tmp_path: Path) -> None:
        assert "no such folder" in refused(f"{name}:{tmp_path}/nothing")

    def test_missing_file(self, tmp_path: Path) -> None:
        assert "t10k-images-idx3-ubyte: no such file" in refused(f"mnist:{tmp_path}")
        assert "data_batch_1.bin: no such file" in refused(f"cifar10:{tmp_path}:train")

    def test_a_split_is_meant_where_none_is_named(self, mnist: Path, images: np.ndarray, labels: np.ndarray) -> None:
        assert len(load("digits", "train")) == 1297
        assert len(load("digits:test", "train")) == 500
        with pytest.raises(InvalidValue, match="train-images-idx3-ubyte"):
            load(f"mnist:{mnist}", "train")
        assert len(load(f"mnist:{mnist}:test", "train")) == 7
        archive = mnist / "own.npz"
        np.savez(archive, x=images.astype(np.float32), y=labels)  # a single set, for whatever it is meant
        assert len(load(f"npz:{archive}", "train")) == 7


class TestDigits:
    def test_split(self) -> None:
        test, train = load("digits"), load("digits:train")
        assert (len(test), len(train)) == (500, 1297)
        assert test.images.shape == (500, 1, 8, 8)
        assert test.images.dtype == torch.float32
        assert test.labels.dtype == torch.int64
        assert (train.split, test.split, load("digits:test").split) == ("train", "test", "test")

    def test_equal_to_scikit_learn(self) -> None:
        datasets = pytest.importorskip("sklearn.datasets")
        theirs = datasets.load_digits()
        ours = [load("digits:train"), load("digits:test")]
        assert np.array_equal(np.concatenate([data.images[:, 0].numpy() for data in ours]) * 16, theirs.images)
        assert np.array_equal(np.concatenate([data.labels.numpy() for data in ours]), theirs.target)


class TestMnist:
    @COMPRESSED
    def test_values(
        self, tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes], images: np.ndarray, labels: np.ndarray
    ) -> None:
        (tmp_path / f"train-images-idx3-ubyte{suffix}").write_bytes(compress(idx(images)))
        (tmp_path / f"train-labels-idx1-ubyte{suffix}").write_bytes(compress(idx(labels)))
        data = load(f"mnist:{tmp_path}:train")
        assert (data.name, data.split, data.classes) == ("mnist", "train", 10)
        assert torch.equal(data.images, torch.from_numpy(images).float().unsqueeze(1) / 255)
        assert data.labels.tolist() == labels.tolist()

    def test_colon_in_path(self, mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        link = tmp_path_factory.mktemp("a") / "b:c"
        link.symlink_to(mnist)
        assert len(load(f"mnist:{link}")) == 7

    @COMPRESSED
    @pytest.mark.parametrize("kept", [0, 3, 11, 16, 100])
    def test_truncated_content(
        self, mnist: Path, kept: int, images: np.ndarray, suffix: str, compress: Callable[[bytes], bytes]
    ) -> None:
        (mnist / "t10k-images-idx3-ubyte").unlink()
        (mnist / f"t10k-images-idx3-ubyte{suffix}").write_bytes(compress(idx(images)[:kept]))
        expected = 16 if kept < 16 else 16 + images.size
        message = refused(f"mnist:{mnist}")
        assert f"t10k-images-idx3-ubyte{suffix}: truncated: expected {expected} bytes of content, got {kept}" in message

    @pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress)])
    def test_truncated_stream(
        self, mnist: Path, images: np.ndarray, suffix: str, compress: Callable[[bytes], bytes]
    ) -> None:
        whole = compress(idx(images))
        (mnist / "t10k-images-idx3-ubyte").unlink()
        for kept in range(len(whole)):
            (mnist / f"t10k-images-idx3-ubyte{suffix}").write_bytes(whole[:kept])
            message = refused(f"mnist:{mnist}")
            assert re.search(r"truncated: expected \d+ bytes of content, got \d+|damaged", message), message

    def test_flipped_byte_in_gzip(self, mnist: Path, images: np.ndarray) -> None:
        whole = bytearray(gzip.compress(idx(images)))
        whole[-6] ^= 1  # in the checksum
        (mnist / "t10k-images-idx3-ubyte").unlink()
        (mnist / "t10k-images-idx3-ubyte.gz").write_bytes(whole)
        assert "damaged: CRC check failed" in refused(f"mnist:{mnist}")

    def test_no_gzip_at_all(self, mnist: Path) -> None:
        (mnist / "t10k-images-idx3-ubyte").rename(mnist / "t10k-images-idx3-ubyte.gz")
        assert "Not a gzipped file" in refused(f"mnist:{mnist}")

    def test_too_long(self, mnist: Path, images: np.ndarray) -> None:
        (mnist / "t10k-images-idx3-ubyte").write_bytes(idx(images) + b"!")
        assert "too long: expected 156 bytes of content, got 157" in refused(f"mnist:{mnist}")

    def test_wrong_magic(self, mnist: Path, images: np.ndarray) -> None:
        (mnist / "t10k-images-idx3-ubyte").write_bytes(idx(images, magic=0x802))
        assert "magic number 0x00000802, expected 0x00000803" in refused(f"mnist:{mnist}")

    def test_label_out_of_range(self, mnist: Path, labels: np.ndarray) -> None:
        labels[[2, 5]] = [10, 200]
        (mnist / "t10k-labels-idx1-ubyte").write_bytes(idx(labels))
        assert "2 labels are out of range 0 to 9, first at index 2: 10" in refused(f"mnist:{mnist}")

    def test_other_count(self, mnist: Path, labels: np.ndarray) -> None:
        (mnist / "t10k-labels-idx1-ubyte").write_bytes(idx(labels[:5]))
        assert "holds 5 labels for 7 images" in refused(f"mnist:{mnist}")

    def test_no_images(self, mnist: Path, images: np.ndarray, labels: np.ndarray) -> None:
        (mnist / "t10k-images-idx3-ubyte").write_bytes(idx(images[:0]))
        (mnist / "t10k-labels-idx1-ubyte").write_bytes(idx(labels[:0]))
        assert "holds no inputs" in refused(f"mnist:{mnist}")

    def test_the_real_one(self, data_dir: Path) -> None:
        test = load(f"mnist:{data_dir / 'mnist'}")
        assert test.images.shape == (10_000, 1, 28, 28)
        assert test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
        assert round(float(test.images.double().mean()), 4) == 0.1325
        assert (float(test.images.min()), float(test.images.max())) == (0.0, 1.0)


class TestCifar10:
    @staticmethod
    def batch(seed: int = 0) -> np.ndarray:
        records = np.zeros((10_000, 3073), np.uint8)
        records[:, 0] = np.arange(10_000) % 10
        records[:50, 1:] = np.random.default_rng(seed).integers(0, 256, (50, 3072))
        return records

    def test_values(self, tmp_path: Path) -> None:
        records = self.batch()
        (tmp_path / "test_batch.bin.gz").write_bytes(gzip.compress(records.tobytes(), 1))
        data = load(f"cifar10:{tmp_path}")
        assert data.images.shape == (10_000, 3, 32, 32)
        assert data.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
        red, row, column = 0, 3, 5
        assert data.images[7, red, row, column] == np.float32(records[7, 1 + 32 * row + column]) / np.float32(255)
        assert data.images[7, 2, row, column] == np.float32(records[7, 1 + 2048 + 32 * row + column]) / np.float32(255)
        assert data.note == ""

    def test_some_training_files(self, tmp_path: Path) -> None:
        for number in (2, 4):
            (tmp_path / f"data_batch_{number}.bin.gz").write_bytes(gzip.compress(self.batch(number).tobytes(), 1))
        data = load(f"cifar10:{tmp_path}:train")
        assert len(data) == 20_000
        assert data.note == "2 of 5 training files are there: 20000 of 50000 images"
        assert torch.equal(data.images[10_000, 0, 0, :32] * 255, torch.from_numpy(self.batch(4)[0, 1:33]).float())

    @pytest.mark.parametrize("kept", [0, 3073 * 5000, 30_730_000 - 1])
    def test_truncated(self, tmp_path: Path, kept: int) -> None:
        (tmp_path / "test_batch.bin.gz").write_bytes(gzip.compress(self.batch().tobytes()[:kept], 1))
        assert f"truncated: expected 30730000 bytes of content, got {kept}" in refused(f"cifar10:{tmp_path}")

    def test_label_out_of_range(self, tmp_path: Path) -> None:
        records = self.batch()
        records[41, 0] = 77
        (tmp_path / "test_batch.bin.gz").write_bytes(gzip.compress(records.tobytes(), 1))
        assert "1 labels are out of range 0 to 9, first at index 41: 77" in refused(f"cifar10:{tmp_path}")

    def test_the_real_one(self, data_dir: Path) -> None:
        data = load(f"cifar10:{data_dir / 'cifar-10-batches-bin'}")
        assert data.images.shape == (10_000, 3, 32, 32)
        assert data.labels.bincount().tolist() == [1000] * 10


class TestNpz:
    x = np.linspace(-2, 3, 24).reshape(4, 6)
    y = np.array([0, 2, 1, 0])

    @pytest.mark.parametrize(
        ("stored", "read"), [("float16", torch.float32), ("float32", torch.float32), ("float64", torch.float64)]
    )
    def test_values(self, tmp_path: Path, stored: str, read: torch.dtype) -> None:
        np.savez(tmp_path / "d.npz", x=self.x.astype(stored), y=self.y)
        data = load(f"npz:{tmp_path / 'd.npz'}")
        assert torch.equal(data.images, torch.from_numpy(self.x.astype(stored)).to(read))
        assert (data.labels.tolist(), data.classes, data.input_shape) == ([0, 2, 1, 0], 3, (6,))

    def test_splits(self, tmp_path: Path) -> None:
        np.savez_compressed(tmp_path / "d.npz", x_train=self.x, y_train=self.y, x_test=self.x[:2], y_test=self.y[:2])
        assert len(load(f"npz:{tmp_path / 'd.npz'}:train")) == 4
        assert len(load(f"npz:{tmp_path / 'd.npz'}:test")) == 2
        assert "no array x and no array y; it has x_train, y_train, x_test, y_test" in refused(
            f"npz:{tmp_path / 'd.npz'}"
        )

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"x": x}, "no array y"),
            ({"y": y}, "no array x"),
            ({"x": x[:3], "y": y}, "3 inputs and 4 labels"),
            ({"x": x, "y": y.astype(float)}, "y is float64"),
            ({"x": x, "y": y[:, None]}, "shape (4, 1)"),
            ({"x": (x * 10).astype(np.uint8), "y": y}, "x is uint8"),
            ({"x": x[:, 0], "y": y}, "x is float64 of shape (4,)"),
            ({"x": x, "y": y - 1}, "labels are out of range"),
            ({"x": np.where(x > 2, np.nan, x), "y": y}, "1 inputs hold NaN or infinity, first at index 3"),
            ({"x": np.where(x < 0, np.inf, x), "y": y}, "2 inputs hold NaN or infinity, first at index 0"),
            ({"x": x[:0], "y": y[:0]}, "holds no inputs"),
            ({"x": np.array([{}, {}]), "y": y}, "not a whole numpy archive"),
        ],
    )
    def test_refused(self, tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
        np.savez(tmp_path / "d.npz", **arrays)  # type: ignore[arg-type]
        assert message in refused(f"npz:{tmp_path / 'd.npz'}")

    def test_single_array(self, tmp_path: Path) -> None:
        np.save(tmp_path / "d.npy", self.x)
        assert "is a single array" in refused(f"npz:{tmp_path / 'd.npy'}")

    def test_missing(self, tmp_path: Path) -> None:
        assert "no such file" in refused(f"npz:{tmp_path / 'd.npz'}")
        assert "cannot be read" in refused(f"npz:{tmp_path}")

    @given(kept=st.floats(0, 1, exclude_max=True))
    def test_truncated(self, tmp_path_factory: pytest.TempPathFactory, kept: float) -> None:
        path = tmp_path_factory.mktemp("npz") / "d.npz"
        np.savez(path, x=self.x, y=self.y)
        path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
        assert "not a whole numpy archive" in refused(f"npz:{path}")


class TestDataset:
    def test_first(self) -> None:
        data = load("digits")
        assert torch.equal(data.first(3).images, data.images[:3])
        assert len(data.first(10_000)) == 500
        with pytest.raises(InvalidValue, match="limit = 0"):
            data.first(0)

    def test_digest_sees_every_change(self) -> None:
        data = load("digits").first(10)
        digests = {data.digest(), data.first(9).digest(), data.to(torch.float64).digest()}
        other = data.images.clone()
        other[3, 0, 4, 4] += 1e-6
        digests.add(Dataset("digits", "test", other, data.labels, 10).digest())
        digests.add(Dataset("digits", "test", data.images, data.labels.flip(0), 10).digest())
        assert len(digests) == 5
        assert data.digest() == load("digits").first(10).digest()
