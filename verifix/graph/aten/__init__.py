"""What each ATen operation of an exported program means, in our operations: one module per family of rules."""

from verifix.graph.aten import activations, arithmetic, layers, movement, pooling
from verifix.graph.aten.lowering import RULES, Lowering

SHAPED = ("view", "reshape", "_unsafe_view", "unflatten", "expand")
"""Operations whose arguments are sizes, the batch's among them; the shape of the output tells all of them."""

SUPPORTED = sorted(name for name in RULES if not name.startswith("_"))

__all__ = ["RULES", "SHAPED", "SUPPORTED", "Lowering", "activations", "arithmetic", "layers", "movement", "pooling"]
