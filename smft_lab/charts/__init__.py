"""Figures and the self-contained report page, drawn from a finished comparison."""

from smft_lab.charts.figures import curves, plane
from smft_lab.charts.report import write_report

__all__ = ["curves", "plane", "write_report"]
