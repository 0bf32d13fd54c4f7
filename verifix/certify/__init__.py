"""Verdicts, specifications, radii, detection, and runs that survive a crash."""

from verifix.certify.cascade import Answers, Cascade, CascadeResult
from verifix.certify.certify import certify
from verifix.certify.detect import Detection, detect, detect_run
from verifix.certify.radius import Radii, radius
from verifix.certify.radius_run import radius_run
from verifix.certify.run import certify_run
from verifix.certify.specification import Margins, Rows, Specification
from verifix.certify.verdict import Result, Verdict

__all__ = [
    "Answers",
    "Cascade",
    "CascadeResult",
    "Detection",
    "Margins",
    "Radii",
    "Result",
    "Rows",
    "Specification",
    "Verdict",
    "certify",
    "certify_run",
    "detect",
    "detect_run",
    "radius",
    "radius_run",
]
