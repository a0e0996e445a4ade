"""Measure: metrics, published test settings, and the tables made with them."""

from pysr.evaluate.metrics import luma, psnr, ssim
from pysr.evaluate.protocols import PROTOCOLS, Case, cases
from pysr.evaluate.report import Report, Row, evaluate

__all__ = ["PROTOCOLS", "Case", "Report", "Row", "cases", "evaluate", "luma", "psnr", "ssim"]
