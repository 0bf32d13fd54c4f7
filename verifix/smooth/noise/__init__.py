"""Families of noise: how each is drawn, and what it certifies. One file per family."""

from __future__ import annotations

from verifix.smooth.noise.base import Noise, Purpose, Samples

__all__ = ["Noise", "Purpose", "Samples"]
