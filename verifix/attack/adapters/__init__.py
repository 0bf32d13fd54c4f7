"""Attacks of other libraries, where these are installed; verifix needs none of them."""

from verifix.attack.adapters.adv_lib import AdvLib
from verifix.attack.adapters.autoattack import AutoAttack
from verifix.attack.adapters.foolbox import Foolbox

__all__ = ["AdvLib", "AutoAttack", "Foolbox"]
