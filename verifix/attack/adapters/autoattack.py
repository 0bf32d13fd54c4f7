"""AutoAttack."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from verifix.attack.adapters.adapter import Adapter, Task, package, single_eps
from verifix.attack.base import choice, whole
from verifix.errors import InvalidValue

_PIP = "git+https://github.com/fra31/auto-attack"
_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Adapter):
    """AutoAttack (Croce and Hein 2020) as its authors published it, which is not on PyPI.

    Args:
        version: ``standard``, ``plus`` or ``rand``.
        library_batch: how many inputs the library works on at once.

    Raises:
        InvalidValue: it is not installed; eps is not a single number; a target is given, as it chooses its own.

    >>> AutoAttack().settings()
    {'attack': 'AutoAttack', 'version': 'standard', 'library_batch': 250}
    """

    version: str = "standard"
    library_batch: int = 250

    def __post_init__(self) -> None:
        choice("version", self.version, ("standard", "plus", "rand"))
        whole("library_batch", self.library_batch, 1)

    def perturb(self, task: Task) -> Tensor:
        if task.targeted:
            raise InvalidValue("y", "Targeted", "AutoAttack chooses its targets: give it labels")
        library = package("autoattack", _PIP)
        attack = library.AutoAttack(
            task.model,
            norm=_NORMS[task.norm],
            eps=single_eps("AutoAttack", task),
            seed=task.seed,
            verbose=False,
            version=self.version,
            device=task.x.device,
        )
        found: Tensor = attack.run_standard_evaluation(task.x, task.classes, bs=self.library_batch)
        return found
