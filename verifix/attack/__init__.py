"""Attacks: what a certificate says cannot be found, looked for."""

from verifix.attack.cascade import CascadeAttack, attack_cascade
from verifix.attack.pgd import AttackResult, pgd

__all__ = ["AttackResult", "CascadeAttack", "attack_cascade", "pgd"]
