"""What every loader returns."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verifix.errors import InvalidValue


@dataclass(frozen=True)
class Dataset:
    """Labelled inputs of one split, in memory.

    Attributes:
        name: where it comes from: ``digits``, ``mnist``, ``cifar10`` or ``npz``.
        split: ``train`` or ``test``.
        images: ``(n, channels, height, width)`` in [0, 1]; from an ``npz`` file any ``(n, ...)`` of any range.
        labels: ``(n,)`` int64, each in ``[0, classes)``.
        classes: the number of classes.
        note: something a reader of results should know, such as missing training files; often empty.

    Raises:
        InvalidValue: no input, as many labels as inputs are missing, a label out of range, NaN or infinity in an input.

    >>> import torch
    >>> data = Dataset("npz", "test", torch.zeros(3, 5), torch.tensor([0, 1, 1]), classes=2)
    >>> len(data), len(data.first(2)), data.input_shape
    (3, 2, (5,))
    """

    name: str
    split: str
    images: Tensor
    labels: Tensor
    classes: int
    note: str = ""

    def __post_init__(self) -> None:
        count = self.images.shape[0]
        if count == 0:
            raise InvalidValue("data", self.name, "holds no inputs")
        if self.labels.shape != (count,):
            remedy = f"{count} inputs need {count} labels in one row, got labels of shape {tuple(self.labels.shape)}"
            raise InvalidValue("data", self.name, remedy)
        wrong = (self.labels < 0) | (self.labels >= self.classes)
        if wrong.any():
            index = int(wrong.nonzero()[0])
            remedy = f"{int(wrong.sum())} labels are out of range 0 to {self.classes - 1}, first at index {index}"
            raise InvalidValue("data", self.name, f"{remedy}: {int(self.labels[index])}")
        broken = ~torch.isfinite(self.images).flatten(1).all(dim=1)
        if broken.any():
            remedy = f"{int(broken.sum())} inputs hold NaN or infinity, first at index {int(broken.nonzero()[0])}"
            raise InvalidValue("data", self.name, remedy)

    def __len__(self) -> int:
        return int(self.images.shape[0])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, without the batch axis."""
        return tuple(self.images.shape[1:])

    def first(self, n: int) -> Dataset:
        """The first ``n`` inputs; all of them where there are fewer.

        Raises:
            InvalidValue: ``n`` is below 1.
        """
        if n < 1:
            raise InvalidValue("limit", n, "must be a whole number of at least 1")
        return replace(self, images=self.images[:n], labels=self.labels[:n])

    def select(self, index: Tensor) -> Dataset:
        """The inputs of these numbers, in their order.

        Raises:
            InvalidValue: there are none.
        """
        return replace(self, images=self.images[index], labels=self.labels[index])

    def to(self, dtype: torch.dtype) -> Dataset:
        """The same with ``images`` in another floating-point type."""
        return replace(self, images=self.images.to(dtype))

    def digest(self) -> str:
        """SHA-256 of shapes, types and bytes of inputs and labels, to tell whether two runs saw the same data."""
        state = hashlib.sha256()
        for tensor in (self.images, self.labels):
            state.update(f"{tuple(tensor.shape)} {tensor.dtype};".encode())
            state.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return state.hexdigest()
