"""Writes one HTML page about trainings."""

from cankd.openmmlab.report.page import write_report

__all__ = ["write_report"]
