"""What people look at: tables and pictures."""

from verifix.report.curves import training_curves
from verifix.report.picture import accuracy_picture
from verifix.report.radii import radius_picture

__all__ = ["accuracy_picture", "radius_picture", "training_curves"]
