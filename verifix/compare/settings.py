"""What to compare: methods, radii and seeds, and all that they share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from verifix.attack import PGD
from verifix.bounds import parse_method
from verifix.bounds.method import exact_methods
from verifix.errors import InvalidType, InvalidValue
from verifix.spelling import name_and_settings, split_outside
from verifix.train import TrainSettings
from verifix.train.checks import OVER_UNIONS, SMOOTHING, STANDARD

CERTIFY_METHOD = "ibp+crown-ibp+cap-ibp+interval:zero+interval:one+tight-smooth:restarts=4+crown+cap"
"""Every bound of the engine, with little search; cheapest first."""
OF_CELLS = ("method", "eps", "eps_test", "seed")
"""The settings of training that a comparison fills in itself."""
OF_ALL = ("norm", "box")
"""Those that no method has of its own: what networks are certified and attacked in is the same for all."""
WITHOUT_BOUNDS = (STANDARD, "fgsm", "pgd")
"""The methods of training that may be compared and go by no bound."""
OF_BOUNDS = ("beta", "kappa", "l1", "eps_warmup", "regulariser", "regulariser_tolerance")
"""Shared settings that those have no use for, and are trained without."""
OF_GRAPHS = ("initialisation", "batch_norm")
"""The same of ``fgsm`` and ``pgd`` alone."""


@dataclass(frozen=True)
class Cell:
    """One training, with what is then done to the network: ``method`` as it was spelled, for ``eps`` and ``seed``."""

    method: str
    eps: float
    seed: int
    settings: TrainSettings

    @property
    def name(self) -> str:
        """What it is called, which is its folder too.

        >>> Cell("crown-ibp(kappa=(1, 0.5))", 0.1, 0, TrainSettings(eps=0.1)).name
        'crown-ibp_kappa=1_0.5-0.1-0'
        """
        method = re.sub(r"[^A-Za-z0-9.=+-]+", "_", self.method).replace("=_", "=").strip("_")
        return f"{method}-{self.eps:g}-{self.seed}"

    @property
    def spelled(self) -> str:
        """As :meth:`Comparison.only` takes it."""
        return f"{self.method}:{self.eps:g}:{self.seed}"

    @property
    def own_method(self) -> str | None:
        """The bounds that validation goes by, nothing estimated; None where there are none."""
        if not self.settings.bounded:
            return None
        return "+".join([self.settings.method, *(["ibp"] if self.settings.beta[1] < 1 else [])])


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Methods of training side by side, each for every radius and seed; checked when it is made.

    Args:
        methods: as :class:`TrainSettings` takes them: bounds, and ``none``, ``fgsm`` and ``pgd``, which have no bound
            of their own. Settings in parentheses are those of one method alone, such as ``crown-ibp(lr=0.0005)``.
        eps: the radii that networks are certified and attacked at, in units of the raw input.
        eps_train: for each of them the radius to train for, at least as large; default the same.
        seeds: of training: one network of each method and radius for each. Of one seed all begin with the same weights.
        training: settings of :class:`TrainSettings` that all share.
        certify_method: the bounds that certify every network, the best of them entry by entry; nothing estimated.
        certify_batch, attack_batch: inputs decided together, and written at once.
        attack_steps: of projected gradient descent, each a quarter of the radius long.
        attack_restarts: its starts: the input itself, then random points of the ball.
        seed: of the attack.

    Raises:
        InvalidValue, InvalidType: the argument, its value and what to do; of a setting of one method its name too.

    >>> comparison = Comparison(methods=("ibp", "cap(batch=20)"), eps=(0.1, 0.3), eps_train=(0.2, 0.3))
    >>> [(cell.name, cell.settings.eps, cell.settings.batch) for cell in comparison.cells][1:3]
    [('ibp-0.3-0', 0.3, 50), ('cap_batch=20-0.1-0', 0.2, 20)]
    """

    methods: tuple[str, ...]
    eps: tuple[float, ...]
    eps_train: tuple[float, ...] | None = None
    seeds: tuple[int, ...] = (0,)
    training: Mapping[str, Any] = field(default_factory=dict)
    certify_method: str = CERTIFY_METHOD
    certify_batch: int = 50
    attack_batch: int = 500
    attack_steps: int = 100
    attack_restarts: int = 2
    seed: int = 0
    cells: tuple[Cell, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("methods", "eps", "seeds"):
            if isinstance(getattr(self, name), str) or not isinstance(getattr(self, name), Sequence):
                raise InvalidType(name, getattr(self, name), "a tuple")
            if not getattr(self, name):
                raise InvalidValue(name, "()", "name at least one")
        for name in ("certify_batch", "attack_batch"):
            if getattr(self, name) < 1:
                raise InvalidValue(name, getattr(self, name), "must be a whole number of at least 1")
        exact_methods(self.certify_method)
        self.attack()
        for name in OF_CELLS:
            if name in self.training:
                raise InvalidValue(name, self.training[name], "differs from cell to cell: leave it out of training")
        cells = [
            self._cell(method.strip(), eps, eps_train, seed)
            for method in self.methods
            for eps, eps_train in zip(self.eps, self._train_radii(), strict=True)
            for seed in self.seeds
        ]
        _refuse_duplicates(cells)
        object.__setattr__(self, "cells", tuple(cells))  # frozen: while it is being made alone

    def _train_radii(self) -> Sequence[float]:
        if self.eps_train is None:
            return self.eps
        if len(self.eps_train) != len(self.eps):
            remedy = f"give one radius for each of the {len(self.eps)} of eps"
            raise InvalidValue("eps_train", ", ".join(map(str, self.eps_train)), remedy)
        return self.eps_train

    def _cell(self, method: str, eps: float, eps_train: float, seed: int) -> Cell:
        name, own = split_method(method)
        if not name:
            raise InvalidValue("methods", ", ".join(self.methods), "has an empty name: write one between two commas")
        if name in SMOOTHING:
            remedy = "trains for randomized smoothing, whose certificates are of another kind: use verifix smooth"
            raise InvalidValue("methods", name, remedy)
        if name in OVER_UNIONS:
            raise InvalidValue("methods", name, "trains for unions of balls, and one ball is what is compared")
        for option in own:
            if option in OF_CELLS:
                raise InvalidValue("methods", method, f"{option} differs from cell to cell: leave it out")
            if option in OF_ALL:
                remedy = f"{option} is that of the test, the same for all: give it for the whole comparison"
                raise InvalidValue("methods", method, remedy)
        if not eps > 0:
            raise InvalidValue("eps", eps, "must be above 0")
        if name != STANDARD and not eps_train >= eps:
            raise InvalidValue("eps_train", eps_train, f"must be at least eps = {eps:g}, which is certified")
        radius = {} if name == STANDARD else {"eps": eps_train}
        if name not in WITHOUT_BOUNDS:
            radius["eps_test"] = eps
        shared = {option: value for option, value in self.training.items() if self._uses(name, option)}
        try:
            settings = TrainSettings.from_json({**shared, **own, **radius, "method": name, "seed": seed})
        except InvalidValue as error:
            argument, value, remedy = error.args
            where = f"of {method} at {eps:g}: " if len(self.methods) * len(self.eps) > 1 else ""
            raise InvalidValue(argument, value, f"{where}{remedy}") from None
        return Cell(method, eps, seed, settings)

    def _uses(self, name: str, option: str) -> bool:
        """Whether a method is trained by a shared setting; it is one that some other method is, where it is not."""
        unused = {
            **dict.fromkeys(OF_BOUNDS, lambda method: method in WITHOUT_BOUNDS),
            **dict.fromkeys(OF_GRAPHS, lambda method: method in WITHOUT_BOUNDS and method != STANDARD),
            "beta": lambda method: method in WITHOUT_BOUNDS or _is_interval(method),
        }
        if option not in unused:
            return True
        names = [split_method(method)[0] for method in self.methods]
        return not unused[option](name) or all(map(unused[option], names))  # TrainSettings refuses what none uses

    def attack(self) -> PGD:
        """What every network is attacked by: projected gradient descent as in the paper, which has the first start."""
        return PGD(steps=self.attack_steps, relative_step_size=0.25, restarts=self.attack_restarts, start_from="both")

    def only(self, names: Sequence[str]) -> tuple[Cell, ...]:
        """The cells of these names, each ``METHOD:EPS:SEED``, in the order of :attr:`cells`; all where there are none.

        Raises:
            InvalidValue: a name that is no cell's.

        >>> comparison = Comparison(methods=("ibp", "both:zero"), eps=(0.1, 8 / 255), seeds=(0, 1))
        >>> [cell.name for cell in comparison.only(["both:zero:8/255:1", "ibp:0.1:0"])]
        ['ibp-0.1-0', 'both_zero-0.0313725-1']
        """
        if not names:
            return self.cells
        wanted = [self._named(name) for name in names]
        return tuple(cell for cell in self.cells if cell in wanted)

    def _named(self, name: str) -> Cell:
        parts = name.rsplit(":", 2)
        for cell in self.cells:
            if len(parts) == 3 and parts[0].strip() == cell.method and parts[2].strip() == str(cell.seed):
                above, _, below = parts[1].partition("/")
                try:
                    if float(above) / float(below or 1) == cell.eps:
                        return cell
                except (ValueError, ZeroDivisionError):
                    break
        choices = ", ".join(cell.spelled for cell in self.cells)
        raise InvalidValue("only", name, f"is no cell: these are METHOD:EPS:SEED of {choices}")

    def to_json(self) -> dict[str, Any]:
        """All that decides results, as JSON values, flat: so that a difference can be told by name."""
        return {
            **{name: list(value) if isinstance(value, tuple) else value for name, value in self.training.items()},
            "methods": ", ".join(method.strip() for method in self.methods),
            "eps": ", ".join(map(repr, self.eps)),
            "eps_train": ", ".join(map(repr, self._train_radii())),
            "seeds": ", ".join(map(str, self.seeds)),
            "certify_method": self.certify_method,
            "certify_batch": self.certify_batch,
            "attack": self.attack().settings(),
            "attack_batch": self.attack_batch,
            "attack_seed": self.seed,
        }


def split_methods(text: str) -> tuple[str, ...]:
    """Methods at commas, but not those in parentheses.

    >>> split_methods("ibp, crown-ibp(beta=(1, 0)),cap")
    ('ibp', 'crown-ibp(beta=(1, 0))', 'cap')
    """
    return tuple(split_outside(text, ","))


def split_method(text: str) -> tuple[str, dict[str, Any]]:
    """A method and the settings that are its own: names and literals, nothing is evaluated.

    Raises:
        InvalidValue: what stands in parentheses is nothing of that kind.

    >>> split_method("crown-ibp(beta=(1, 0), lr=0.001)")
    ('crown-ibp', {'beta': (1, 0), 'lr': 0.001})
    """
    return name_and_settings(text, "methods", "crown-ibp(lr=0.0005)")


def _is_interval(name: str) -> bool:
    """Whether a method is interval arithmetic, which ``beta`` would mix with itself."""
    methods = parse_method(name)
    return len(methods) == 1 and methods[0].slopes == "constant"


def _refuse_duplicates(cells: Sequence[Cell]) -> None:
    """Refuse two cells that are one."""
    seen: dict[object, Cell] = {}
    for cell in cells:
        method = parse_method(cell.settings.method) if cell.settings.bounded else cell.settings.method
        rest = {name: value for name, value in cell.settings.to_json().items() if name != "method"}
        for key in ((method, cell.eps, str(rest)), cell.name.lower()):
            before = seen.setdefault(key, cell)
            if before is not cell:
                raise InvalidValue("methods", cell.spelled, f"is the same as {before.spelled}: leave one of them out")
