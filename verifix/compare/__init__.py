"""Methods of certified training side by side: trained alike, certified, attacked and tabulated."""

from verifix.compare.cell import State, Work
from verifix.compare.result import CellResult, CertificateBroken, Errors
from verifix.compare.run import run_comparison
from verifix.compare.settings import Cell, Comparison, split_methods

__all__ = [
    "Cell",
    "CellResult",
    "CertificateBroken",
    "Comparison",
    "Errors",
    "State",
    "Work",
    "run_comparison",
    "split_methods",
]
