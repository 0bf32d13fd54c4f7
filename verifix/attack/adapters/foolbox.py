"""Attacks of foolbox."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from verifix.attack.adapters.adapter import Adapter, Task, check_named, named, package, single_eps


@dataclass(frozen=True, kw_only=True)
class Foolbox(Adapter):
    """A class of ``foolbox.attacks``, such as ``L2CarliniWagnerAttack`` or ``EADAttack`` (``pip install foolbox``).

    Attacks of minimum norm look for the nearest point; those that work at a given radius take the ball's eps, which has
    to be a single number.

    Args:
        name: of the class.
        options: its keyword arguments.

    Raises:
        InvalidValue: foolbox is not installed, or has no such attack; one eps per input for an attack that takes one.

    >>> Foolbox(name="LinfDeepFoolAttack").settings()
    {'attack': 'Foolbox', 'name': 'LinfDeepFoolAttack', 'options': {}}
    """

    nearest: ClassVar[bool] = True

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_named("name", self.name, self.options)

    def perturb(self, task: Task) -> Tensor:
        foolbox = package("foolbox", "foolbox")
        attack = named(foolbox.attacks, self.name, "name")(**self.options)
        model = foolbox.PyTorchModel(task.model, bounds=(0, 1), device=task.x.device)
        kind = foolbox.criteria.TargetedMisclassification if task.targeted else foolbox.criteria.Misclassification
        free = isinstance(attack, foolbox.attacks.base.MinimizationAttack)
        eps = None if free else single_eps(self.name, task)
        found: Tensor = attack(model, task.x, kind(task.classes), epsilons=eps)[1]
        return found
