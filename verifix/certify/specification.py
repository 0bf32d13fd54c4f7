"""What is to be proved of a network's outputs: that linear forms of them stay positive."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from verifix.bounds.bounds import check_rows
from verifix.errors import InvalidType, InvalidValue


class Specification(ABC):
    """``rows . f(x') + threshold > 0`` for every row and every ``x'`` in the set."""

    @abstractmethod
    def rows(self, index: slice | Tensor, like: Tensor) -> Tensor:
        """The forms of some inputs: ``(n, r, classes)``, or ``(1, r, classes)`` where they share them."""

    @abstractmethod
    def threshold(self, index: slice | Tensor, like: Tensor) -> Tensor:
        """What is added: ``(n or 1, r or 1)``."""

    @abstractmethod
    def check(self, n: int, classes: int) -> None:
        """Refuse a batch or a network that it was not made for."""

    @abstractmethod
    def spread(self, margins: Tensor, index: slice | Tensor) -> Tensor:
        """Margins of the rows, ``(n, r)``, in the layout of the result."""


class Margins(Specification):
    """The label beats every other class: rows ``e_y - e_j`` for ``j != y``.

    The difference is bounded, not its two sides. In the result's layout, ``(n, classes)``, the label's own entry is
    infinite.

    >>> Margins(torch.tensor([1]), 3).rows(slice(None), torch.zeros(()))
    tensor([[[-1.,  1.,  0.],
             [ 0.,  1., -1.]]])
    """

    def __init__(self, labels: Tensor, classes: int) -> None:
        self.labels = check_labels(labels, classes)
        self.classes = classes
        everything = torch.arange(classes).expand(len(labels), -1)
        self.others = everything[everything != self.labels.cpu()[:, None]].reshape(len(labels), classes - 1)

    def rows(self, index: slice | Tensor, like: Tensor) -> Tensor:
        labels, others = self.labels[index].to(like.device), self.others[index].to(like.device)
        n, r = others.shape
        rows = torch.zeros(n, r, self.classes, dtype=like.dtype, device=like.device)
        rows.scatter_(2, labels[:, None, None].expand(n, r, 1), 1.0)
        return rows.scatter_(2, others[:, :, None], -1.0)

    def check(self, n: int, classes: int) -> None:
        if len(self.labels) != n:
            raise InvalidValue("y", f"{len(self.labels)} labels", f"must be as many as the {n} inputs")
        if self.classes != classes:
            raise InvalidValue("y", f"margins of {self.classes} classes", f"the network has {classes}")

    def threshold(self, index: slice | Tensor, like: Tensor) -> Tensor:
        return torch.zeros(1, 1, dtype=like.dtype, device=like.device)

    def spread(self, margins: Tensor, index: slice | Tensor) -> Tensor:
        full = margins.new_full((len(margins), self.classes), torch.inf)
        return full.scatter(1, self.others[index].to(margins.device), margins)


class Rows(Specification):
    """Any linear forms: ``matrix . f(x') + threshold > 0``.

    Args:
        matrix: ``(r, classes)`` for all inputs, or ``(n, r, classes)``.
        threshold: a number, ``(r,)`` or ``(n, r)``.

    >>> Rows(torch.tensor([[1.0, -1.0]]), 0.5).rows(slice(None), torch.zeros(()))
    tensor([[[ 1., -1.]]])
    """

    def __init__(self, matrix: Tensor, threshold: float | Tensor = 0.0) -> None:
        if not isinstance(matrix, Tensor):
            raise InvalidType("matrix", matrix, "a torch.Tensor")
        if matrix.dim() not in (2, 3):
            raise InvalidValue(
                "matrix", f"tensor of shape {tuple(matrix.shape)}", "must be (r, classes) or (n, r, classes)"
            )
        self.matrix = check_rows(matrix, len(matrix), (matrix.shape[-1],))
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float, Tensor)):
            raise InvalidType("threshold", threshold, "a number or a torch.Tensor")
        offsets = torch.as_tensor(threshold, dtype=torch.float64)
        rows = matrix.shape[-2]
        if offsets.dim() > 2 or (offsets.dim() and offsets.shape[-1] not in (1, rows)):
            raise InvalidValue(
                "threshold", f"tensor of shape {tuple(offsets.shape)}", f"must be a number, ({rows},) or (n, {rows})"
            )
        if not bool(torch.isfinite(offsets).all()):
            raise InvalidValue("threshold", threshold, "must be finite")
        self.offsets = offsets.reshape(1, -1) if offsets.dim() < 2 else offsets

    def check(self, n: int, classes: int) -> None:
        if self.matrix.shape[2] != classes:
            raise InvalidValue(
                "matrix", f"rows of {self.matrix.shape[2]} entries", f"the network has {classes} classes"
            )
        for name, count in (("matrix", len(self.matrix)), ("threshold", len(self.offsets))):
            if count not in (1, n):
                raise InvalidValue(
                    name, f"one for each of {count} inputs", f"must be as many as the {n} inputs, or one"
                )

    def rows(self, index: slice | Tensor, like: Tensor) -> Tensor:
        return (self.matrix if len(self.matrix) == 1 else self.matrix[index]).to(like)

    def threshold(self, index: slice | Tensor, like: Tensor) -> Tensor:
        return (self.offsets if len(self.offsets) == 1 else self.offsets[index]).to(like)

    def spread(self, margins: Tensor, index: slice | Tensor) -> Tensor:
        return margins


def check_labels(labels: object, classes: int, name: str = "y") -> Tensor:
    """Labels as int64 ``(n,)`` in ``[0, classes)``."""
    if not isinstance(labels, Tensor):
        raise InvalidType(name, labels, "a torch.Tensor of class numbers (n,)")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InvalidType(name, labels, f"integer class numbers, not {labels.dtype}")
    if labels.dim() != 1:
        raise InvalidValue(name, f"tensor of shape {tuple(labels.shape)}", "must be (n,)")
    bad = (labels < 0) | (labels >= classes)
    if bad.any():
        raise InvalidValue(
            name,
            f"label {int(labels[bad][0])} at {int(bad.nonzero()[0])}",
            f"labels must be in [0, {classes - 1}] for this network",
        )
    return labels.long()
