"""What is known of a cell when it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from verifix.attack.evaluate import FOOLED, MISCLASSIFIED, UNDECIDED
from verifix.attack.run import AttackRecord
from verifix.certify.store import Record

VERIFIED = "verified"
Status = Literal["done", "diverged"]


class CertificateBroken(Exception):
    """An attack found a wrong answer where a certificate says that there is none: a bug in verifix."""


@dataclass(frozen=True)
class Errors:
    """How many of ``n`` test inputs count as errors.

    Attributes:
        standard: the network is wrong about the input itself.
        attacked: it is, or it is wrong about a point of the ball that the attack found.
        verified: there is no certificate, be it by the bounds that certify every network or by training's own.
        own: there is none by the bound that training went by; None where it went by none.
        undecided: the attack knows nothing of the input (see :class:`verifix.attack.Evaluation`); not in ``attacked``.
    """

    n: int
    standard: int
    attacked: int
    verified: int
    own: int | None
    undecided: int


@dataclass(frozen=True)
class CellResult:
    """One line of the table.

    Attributes:
        status: ``done``, or ``diverged`` (then ``message`` says how, and all that comes after training is None).
        errors: on the test set.
        best_epoch, epochs: the one that validation chose, and how many there were; ``validation`` is what it measured
            in it, as in ``log.jsonl``.
        training_seconds: of all steps, over every session; ``validation_seconds`` come on top.
        certification_seconds, own_seconds, attack_seconds: of the three passes over the test set.
        peak_memory: the most bytes in use in training (on a GPU of its tensors, else of the process). Where the system
            cannot let the mark begin anew, ``peak_is_own`` is false and earlier cells count too.
    """

    method: str
    eps: float
    eps_train: float
    seed: int
    status: Status
    message: str = ""
    errors: Errors | None = None
    own_method: str | None = None
    best_epoch: int | None = None
    epochs: int | None = None
    validation: Mapping[str, Any] | None = None
    training_seconds: float | None = None
    validation_seconds: float | None = None
    certification_seconds: float | None = None
    own_seconds: float | None = None
    attack_seconds: float | None = None
    peak_memory: int | None = None
    peak_is_own: bool = True
    parameters_sha256: str | None = None

    @property
    def seconds_per_epoch(self) -> float | None:
        """Of training alone."""
        return None if self.training_seconds is None or not self.epochs else self.training_seconds / self.epochs

    def rate(self, name: str) -> float | None:
        """An error as a fraction: ``standard``, ``attacked``, ``verified`` or ``own``."""
        count = None if self.errors is None else getattr(self.errors, name)
        return None if count is None or self.errors is None else count / self.errors.n

    def to_json(self) -> dict[str, Any]:
        """As JSON values, with fractions beside the numbers of errors."""
        names = ("standard", "attacked", "verified", "own")
        rates = {f"{name}_error": self.rate(name) for name in names}
        return {**asdict(self), **rates, "seconds_per_epoch": self.seconds_per_epoch}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CellResult:
        """From what :meth:`to_json` gave."""
        known = {name: values[name] for name in cls.__dataclass_fields__}
        return cls(**{**known, "errors": None if values["errors"] is None else Errors(**values["errors"])})


def count_errors(
    name: str, certified: Sequence[Record], own: Sequence[Record] | None, attacked: Sequence[AttackRecord]
) -> Errors:
    """The errors of a network, from what was decided of the same inputs; ``name`` is what messages call it.

    Raises:
        CertificateBroken: an input with a certificate is wrong, or was made so by the attack.

    >>> certified = [Record(0, 7, 7, "verified", 0.5), Record(1, 2, 2, "unknown", -0.5)]
    >>> robust, fooled = (AttackRecord(0, 7, 7, status, None, -0.1, None, 9, 6, []) for status in ("robust", "fooled"))
    >>> count_errors("ibp", certified, None, [robust, fooled])
    Errors(n=2, standard=0, attacked=1, verified=1, own=None, undecided=0)
    >>> count_errors("ibp", certified, None, [fooled, robust])
    Traceback (most recent call last):
    ...
    verifix.compare.result.CertificateBroken: ibp: input 0 is certified (margin at least 0.5), yet fooled ...
    """
    wrong = [record.prediction != record.label for record in certified]
    proved = [record.verdict == VERIFIED for record in certified]
    own_proved = None if own is None else [record.verdict == VERIFIED for record in own]
    both = proved if own_proved is None else [one or other for one, other in zip(proved, own_proved, strict=True)]
    hit = [
        is_wrong or record.status in (MISCLASSIFIED, FOOLED) for is_wrong, record in zip(wrong, attacked, strict=True)
    ]
    for index, (is_proved, is_hit) in enumerate(zip(both, hit, strict=True)):
        if is_proved and is_hit:
            record = certified[index] if proved[index] or own is None else own[index]
            raise CertificateBroken(
                f"{name}: input {index} is certified (margin at least {record.margin}), yet "
                f"{attacked[index].status} (margin {attacked[index].margin}): a bug in verifix, please report it"
            )
    return Errors(
        n=len(certified),
        standard=sum(wrong),
        attacked=sum(hit),
        verified=len(both) - sum(both),
        own=None if own_proved is None else len(own_proved) - sum(own_proved),
        undecided=sum(record.status == UNDECIDED for record in attacked),
    )
