"""Attacks: what a certificate says cannot be found, looked for."""

from verifix.attack.pgd import AttackResult, pgd

__all__ = ["AttackResult", "pgd"]
