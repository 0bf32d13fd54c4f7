"""What people look at: tables and pictures."""

from verifix.report.picture import accuracy_picture

__all__ = ["accuracy_picture"]
