"""Attacks: what a certificate says cannot be found, looked for."""

from verifix.attack.base import Attack
from verifix.attack.biased import BiasedAttack, attack_biased
from verifix.attack.cascade import CascadeAttack, attack_cascade
from verifix.attack.criteria import Criterion, Targeted, Untargeted, Violates
from verifix.attack.fast_gradient import FGSM, RandomFGSM, UniformFGSM
from verifix.attack.projected_gradient import BIM, MIM, PGD
from verifix.attack.result import AttackResult

__all__ = [
    "BIM",
    "FGSM",
    "MIM",
    "PGD",
    "Attack",
    "AttackResult",
    "BiasedAttack",
    "CascadeAttack",
    "Criterion",
    "RandomFGSM",
    "Targeted",
    "UniformFGSM",
    "Untargeted",
    "Violates",
    "attack_biased",
    "attack_cascade",
]
