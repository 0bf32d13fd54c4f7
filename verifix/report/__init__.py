"""What people look at: tables and pictures."""

from verifix.report.curves import training_curves
from verifix.report.picture import accuracy_picture

__all__ = ["accuracy_picture", "training_curves"]
