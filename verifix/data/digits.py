"""The handwritten digits that come inside the package.

1,797 images of 8x8 pixels with values 0 to 16: the test half of the "Optical Recognition of Handwritten Digits" data of
the UCI Machine Learning Repository (E. Alpaydin and C. Kaynak, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0), in
the order in which scikit-learn's ``load_digits`` has them.
"""

from __future__ import annotations

from importlib import resources

import numpy as np
import torch

from verifix.data.dataset import Dataset

TRAIN = 1297


def load_digits(split: str | None = None) -> Dataset:
    """The digits as ``(n, 1, 8, 8)`` in [0, 1]: the first 1,297 are ``train``, the last 500 ``test`` (the default).

    >>> load_digits("train").images.max().item()
    1.0
    """
    with resources.files("verifix.data").joinpath("digits.npz").open("rb") as stream, np.load(stream) as archive:
        images, labels = archive["x"], archive["y"]
    part = slice(None, TRAIN) if split == "train" else slice(TRAIN, None)
    return Dataset(
        name="digits",
        split=split or "test",
        images=torch.from_numpy(images[part]).unsqueeze(1).float() / 16,
        labels=torch.from_numpy(labels[part]).long(),
        classes=10,
    )
