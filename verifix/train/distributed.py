"""Several processes that train one network, started by ``torchrun`` or by whoever uses ``torch.distributed``."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from verifix.errors import InvalidValue, UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """The processes that work together; a single one where ``torch.distributed`` is not initialised."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def current(cls, device: torch.device | str) -> Group:
        """The group that this process belongs to."""
        device = torch.device(device)
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size(), device)
        return cls(0, 1, device)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """This process' part of ``n`` examples; parts differ by at most one and may be empty.

        >>> [Group(rank, 3, torch.device("cpu")).share(7) for rank in range(3)]
        [slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)]
        """
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in each of them."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def agree(self, action: Callable[[], T]) -> T:
        """What ``action`` gives in the first process, in all of them; so with an error of the user's."""
        answer: list[Any] = [None, None]
        if self.first:
            try:
                answer[0] = action()
            except UserError as error:
                answer[1] = error
        if self.size > 1:
            distributed.broadcast_object_list(answer, device=self.device)
        result, problem = answer
        if problem is not None:
            raise problem
        return result

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module, with gradients averaged over all processes, and parameters those of the first."""
        if self.size == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        # buffers are constants here, and a broadcast in every step would be for nothing
        return DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False)

    def apart(self, module: nn.Module) -> AbstractContextManager[None]:
        """While gradients stay in their process, to be averaged with those that come after."""
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the group that ``torchrun`` made, where it started this process; the device of this process.

    On CPU the processes talk by gloo; of several GPUs each process gets its own, and they talk by NCCL.

    Raises:
        InvalidValue: more processes than GPUs.
    """
    gpu = device == "cuda" and torch.cuda.is_available()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield device
        return
    if gpu:
        local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= count:
            raise InvalidValue(
                "nproc-per-node", f"{local + 1} or more", f"there are {count} GPUs, one for each process"
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if gpu else "gloo")
    try:
        yield device
    finally:
        gc.collect()  # DistributedDataParallel is part of cycles and holds on to the group: at the exit that may abort
        distributed.destroy_process_group()
