"""Attacks of adv-lib."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from verifix.attack.adapters.adapter import Adapter, Task, check_named, named, package


@dataclass(frozen=True, kw_only=True)
class AdvLib(Adapter):
    """A function of ``adv_lib.attacks``, such as ``ddn``, ``fmn``, ``alma``, ``pdgd`` (``pip install adv-lib``).

    These are attacks of minimum norm, in the norm that the function or its options say: it should be that of the ball.

    Args:
        function: its name.
        options: its keyword arguments but for the model, the inputs, the labels and ``targeted``.

    Raises:
        InvalidValue: adv-lib is not installed, or has no such function.

    >>> AdvLib(function="fmn", options={"norm": 2, "steps": 100}).settings()
    {'attack': 'AdvLib', 'function': 'fmn', 'options': {'norm': 2, 'steps': 100}}
    """

    nearest: ClassVar[bool] = True

    function: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_named("function", self.function, self.options)

    def perturb(self, task: Task) -> Tensor:
        function = named(package("adv_lib.attacks", "adv-lib"), self.function, "function")
        found: Tensor = function(task.model, task.x, task.classes, targeted=task.targeted, **self.options)
        return found
