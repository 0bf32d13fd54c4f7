"""The image of boxes by native code: hands pointers to ``verifix._C`` and ``verifix._C_cuda``, nothing waits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from verifix.kernels import native
from verifix.kernels.interval_image_reference import Image


class Native:
    """The functions of :mod:`verifix.kernels.interval_image_reference` on one kind of device, by its compiled part."""

    def __init__(self, library: str) -> None:
        self.library = library

    def has(self, dtype: torch.dtype) -> bool:
        """Whether there is a kernel of this type."""
        return dtype in (torch.float32, torch.float64) and native.module_or_none(self.library) is not None

    def interval_image(self, midpoint: Tensor, radius: Tensor, left: float, right: float, bounds: bool) -> Image:
        midpoint, radius = midpoint.contiguous(), radius.contiguous()
        image_midpoint, image_radius = torch.empty_like(midpoint), torch.empty_like(midpoint)
        pieces = torch.empty_like(midpoint, dtype=torch.uint8)
        lower, upper = (torch.empty_like(midpoint) if bounds else midpoint.new_empty(0) for _ in range(2))
        tensors = {
            "midpoint": midpoint,
            "radius": radius,
            "image_midpoint": image_midpoint,
            "image_radius": image_radius,
            "pieces": pieces,
            "lower": lower if bounds else None,
            "upper": upper if bounds else None,
        }
        self._run("interval_image", tensors, midpoint, left, right)
        return image_midpoint, image_radius, pieces, lower, upper

    def interval_image_gradient(
        self, pieces: Tensor, image: list[Tensor], ends: list[Tensor], left: float, right: float
    ) -> tuple[Tensor, Tensor]:
        like = (image or ends)[0]
        midpoint, radius = (torch.empty_like(like, memory_format=torch.contiguous_format) for _ in range(2))
        names = ("image_midpoint", "image_radius", "lower", "upper")
        given = dict(zip(names, (*(image or (None, None)), *(ends or (None, None))), strict=True)) | {"pieces": pieces}
        tensors = {name: None if tensor is None else tensor.contiguous() for name, tensor in given.items()}
        self._run("interval_image_gradient", tensors | {"midpoint": midpoint, "radius": radius}, like, left, right)
        return midpoint, radius

    def _run(self, name: str, tensors: dict[str, Tensor | None], like: Tensor, left: float, right: float) -> None:
        function = getattr(native.module_or_none(self.library), name)
        pointers = {name: 0 if tensor is None else tensor.data_ptr() for name, tensor in tensors.items()}
        dtype = str(like.dtype).removeprefix("torch.")
        arguments: dict[str, Any] = pointers | {"left": left, "right": right, "count": like.numel(), "dtype": dtype}
        if like.device.type == "cpu":
            function(**arguments, threads=torch.get_num_threads(), isa=native.isa())
            return
        with torch.cuda.device(like.device):
            function(**arguments, stream=torch.cuda.current_stream(like.device).cuda_stream)


cpu = Native("verifix._C")
cuda = Native("verifix._C_cuda")
