"""The report of a lab run: one self-contained HTML page, and its figures as SVG files."""

from __future__ import annotations

from kullback.report.page import write_lab_report
from kullback.report.results import LabResults

__all__ = ["LabResults", "write_lab_report"]
