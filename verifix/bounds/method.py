"""Which bound to compute: the engine's choices, and the names that the literature gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from verifix.bounds.estimator import Estimator
from verifix.bounds.slopes import OptimisedSlopes, RandomSlopes, SlopeRule, options_of, parse_slopes
from verifix.errors import InvalidType, InvalidValue

Intermediate = Literal["interval", "backward", "both", "filtered"]
EXACT = Estimator()


@dataclass(frozen=True)
class Method:
    """One way to bound a network.

    Args:
        intermediate: where bounds of pre-activations come from: one ``interval`` pass, the same ``backward`` pass layer
            by layer, the better of ``both``, entry by entry; or that for the units which an interval pass leaves
            undecided (``filtered``: a ReLU whose interval does not straddle zero needs no backward pass, and is linear
            whatever that would say).
        slopes: which lines enclose each activation: ``same``, ``adaptive``, ``zero``, ``one``, or ``constant`` (flat
            lines: intervals to the end); or a :class:`RandomSlopes` or :class:`OptimisedSlopes`, or its spelling, as in
            ``"random:p=0:q=0.5"``.
        estimator: how the norms in the bounds of hidden units are evaluated: an :class:`Estimator`, or its spelling, as
            in ``"median:50"``; other than exact needs parallel lines (``same``) and backward passes to replace.
            Bounds of the outputs' margins are exact in any case, given those of the hidden units.

    ============ ============ ========== =========================================================
    name         intermediate slopes     in the literature
    ============ ============ ========== =========================================================
    ibp          interval     constant   interval bound propagation (Gowal et al.)
    crown-ibp    interval     adaptive   CROWN-IBP (Zhang et al.), its last pass
    cap-ibp      interval     same       CAP-IBP (Lee et al., figure 3)
    tight-smooth interval     optimised  the proposed method of Lee et al., equation 7
    cap          backward     same       CAP, the dual network of Wong and Kolter, Fast-Lin
    crown        backward     adaptive   CROWN (Zhang et al.), DeepPoly (Singh et al.)
    ============ ============ ========== =========================================================
    """

    intermediate: Intermediate
    slopes: SlopeRule
    estimator: Estimator = EXACT

    def __post_init__(self) -> None:
        given: object = self.estimator
        if isinstance(given, str):
            object.__setattr__(self, "estimator", Estimator.parse(given))
        elif not isinstance(given, Estimator):
            raise InvalidType("estimator", self.estimator, "an Estimator, or its spelling such as 'median:50'")
        if isinstance(self.slopes, str):
            object.__setattr__(self, "slopes", parse_slopes(self.slopes))
        elif not isinstance(self.slopes, RandomSlopes | OptimisedSlopes):
            raise InvalidType("slopes", self.slopes, "a name, a RandomSlopes or an OptimisedSlopes")
        if self.intermediate not in get_args(Intermediate):
            remedy = f"choose one of {', '.join(get_args(Intermediate))}"
            raise InvalidValue("intermediate", repr(self.intermediate), remedy)
        if self.slopes == "constant" and self.intermediate != "interval":
            raise InvalidValue("intermediate", repr(self.intermediate), "flat lines (slopes='constant') need interval")
        if not self.estimator.exact and not self.estimable:
            raise InvalidValue(
                "estimator",
                str(self.estimator),
                f"has nothing to estimate in {self.intermediate}:{self.slopes}: use cap",
            )

    @property
    def estimable(self) -> bool:
        """Whether its hidden bounds have norms that may be estimated: backward passes between parallel lines."""
        return self.intermediate != "interval" and self.slopes == "same"

    def __str__(self) -> str:
        """Its spelling, which :func:`parse_method` reads; an estimator's is apart from it."""
        named = {(str(method.intermediate), method.slopes): name for name, method in NAMED.items()}
        plain = self.slopes if isinstance(self.slopes, str) else type(self.slopes)()
        name = named.get((self.intermediate, plain), f"{self.intermediate}:{plain}")
        return name + str(self.slopes).removeprefix(str(plain))

    def seeded(self, seed: int) -> Method:
        """The same method with another seed of its slopes, where these have one."""
        return self if isinstance(self.slopes, str) else replace(self, slopes=self.slopes.seeded(seed))


NAMED: dict[str, Method] = {
    "ibp": Method("interval", "constant"),
    "crown-ibp": Method("interval", "adaptive"),
    "cap-ibp": Method("interval", "same"),
    "tight-smooth": Method("interval", OptimisedSlopes()),
    "cap": Method("backward", "same"),
    "crown": Method("backward", "adaptive"),
}

MethodLike = str | Method | Sequence["str | Method"]


def parse_method(method: MethodLike, estimator: str | Estimator | None = None) -> tuple[Method, ...]:
    """The methods to intersect: a name, names joined by ``+``, a :class:`Method`, or a sequence of these.

    A name is one of :data:`NAMED`, or ``intermediate:slopes``; options of random and optimised slopes follow it, as in
    ``tight-smooth:steps=3:step=0.5`` or ``interval:random:p=0:q=1``.

    Args:
        estimator: replaces that of every method which has something to estimate.

    Raises:
        InvalidValue: for an unknown name, or where no method has anything to estimate.

    >>> [choice.slopes for choice in parse_method("cap+ibp")]
    ['same', 'constant']
    >>> parse_method("both:zero")
    (Method(intermediate='both', slopes='zero', ...),)
    >>> str(parse_method("cap", "median:50")[0].estimator)
    'median:50'
    >>> str(parse_method("interval:optimised:restarts=3")[0])
    'tight-smooth:restarts=3'
    """
    if estimator is not None:
        wanted = Estimator.parse(estimator) if isinstance(estimator, str) else estimator
        methods = parse_method(method)
        if not wanted.exact and not any(part.estimable for part in methods):
            raise InvalidValue("estimator", str(wanted), f"has nothing to estimate in {method}: use cap")
        return tuple(replace(part, estimator=wanted) if part.estimable else part for part in methods)
    if isinstance(method, Method):
        return (method,)
    if isinstance(method, str):
        return tuple(_named(part.strip().lower()) for part in method.split("+"))
    if not isinstance(method, Sequence):
        raise InvalidType("method", method, "a name, a Method, or a sequence of these")
    if not method:
        raise InvalidValue("method", method, "name at least one")
    return tuple(part for entry in method for part in parse_method(entry))


def exact_methods(method: MethodLike) -> tuple[Method, ...]:
    """The methods, where none of them estimates: for what is to hold for certain.

    Raises:
        InvalidValue: as :func:`parse_method`; an estimator other than exact.
    """
    methods = parse_method(method)
    for choice in methods:
        if not choice.estimator.exact:
            raise InvalidValue("estimator", str(choice.estimator), "does not bound for certain: use exact here")
    return methods


def _named(spelling: str) -> Method:
    name, *rest = spelling.split(":")
    if name in NAMED:
        method, options = NAMED[name], rest
    elif rest:
        method, options = Method(name, parse_slopes(rest[0])), rest[1:]  # type: ignore[arg-type]  # checked by Method
    else:
        remedy = f"choose one of {', '.join(NAMED)}, join them by '+', or give 'intermediate:slopes'"
        raise InvalidValue("method", repr(name), remedy)
    if not options:
        return method
    if isinstance(method.slopes, str):
        raise InvalidValue("method", repr(spelling), f"{method.slopes} slopes have no options: leave them out")
    return replace(method, slopes=type(method.slopes).parse(options_of(spelling, options)))
