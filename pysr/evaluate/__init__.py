"""Measure: metrics, published test settings, and the tables made with them."""

from pysr.colour import luma
from pysr.evaluate.metrics import psnr, ssim
from pysr.evaluate.protocols import PROTOCOLS, Case, cases, learned_cases
from pysr.evaluate.report import Report, Row, evaluate

__all__ = [
    "PROTOCOLS",
    "Case",
    "Report",
    "Row",
    "cases",
    "evaluate",
    "learned_cases",
    "luma",
    "psnr",
    "ssim",
]
