"""Families of noise by their names, as on the command line and in results."""

from __future__ import annotations

import inspect
from typing import Any

from verifix.errors import InvalidType, InvalidValue
from verifix.smooth.noise.ablation import Ablation
from verifix.smooth.noise.anisotropic import AnisotropicGaussian
from verifix.smooth.noise.base import Noise
from verifix.smooth.noise.flow import Flow
from verifix.smooth.noise.gaussian import Gaussian
from verifix.smooth.noise.keep_or_replace import KeepOrReplace
from verifix.smooth.noise.laplace import Laplace
from verifix.smooth.noise.splitting import Splitting
from verifix.smooth.noise.uniform import Uniform
from verifix.smooth.noise.uniform_ball import UniformBall

FAMILIES: dict[str, type[Noise]] = {
    family.name: family
    for family in (
        Gaussian,
        AnisotropicGaussian,
        UniformBall,
        Laplace,
        Uniform,
        Splitting,
        KeepOrReplace,
        Ablation,
        Flow,
    )
}


def make_noise(name: str, **parameters: Any) -> Noise:
    """A family by its name, with the parameters of its class.

    Raises:
        InvalidValue: for a name or parameter that there is not, or a parameter that is missing; and whatever the
            family raises.

    >>> make_noise("gaussian", sigma=0.5, lattice=255)
    Gaussian(sigma=0.5, lattice=255)
    """
    if name not in FAMILIES:
        raise InvalidValue("noise", name, f"choose one of {', '.join(FAMILIES)}")
    known = inspect.signature(FAMILIES[name]).parameters
    for parameter in parameters:
        if parameter not in known:
            raise InvalidValue(parameter, parameters[parameter], f"{name} noise takes {', '.join(known)}")
    for parameter, default in known.items():
        if default.default is default.empty and parameter not in parameters:
            raise InvalidValue(parameter, None, f"{name} noise needs it")
    return FAMILIES[name](**parameters)


def noise_from_json(values: object) -> Noise:
    """The family that :meth:`Noise.to_json` described.

    >>> noise_from_json({"name": "laplace", "scale": 0.25, "lattice": None}).to_json()
    {'name': 'laplace', 'scale': 0.25, 'lattice': None}
    """
    if not isinstance(values, dict):
        raise InvalidType("noise", values, "an object with the name of a family and its parameters")
    return make_noise(**{"name": "", **values})
