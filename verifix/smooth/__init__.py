"""Randomized smoothing: classifiers that answer by a vote under noise, and radii that a vote certifies."""

from __future__ import annotations
