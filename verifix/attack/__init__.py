"""Attacks: what a certificate says cannot be found, looked for."""

from verifix.attack.biased import BiasedAttack, attack_biased
from verifix.attack.cascade import CascadeAttack, attack_cascade
from verifix.attack.pgd import AttackResult, pgd

__all__ = ["AttackResult", "BiasedAttack", "CascadeAttack", "attack_biased", "attack_cascade", "pgd"]
