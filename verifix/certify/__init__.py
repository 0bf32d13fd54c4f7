"""Verdicts, specifications, and runs that survive a crash."""

from verifix.certify.cascade import Answers, Cascade, CascadeResult
from verifix.certify.certify import certify
from verifix.certify.run import certify_run
from verifix.certify.specification import Margins, Rows, Specification
from verifix.certify.verdict import Result, Verdict

__all__ = [
    "Answers",
    "Cascade",
    "CascadeResult",
    "Margins",
    "Result",
    "Rows",
    "Specification",
    "Verdict",
    "certify",
    "certify_run",
]
