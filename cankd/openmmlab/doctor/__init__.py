"""Examines a distillation before it trains: each check tells what it found and what to change."""

from cankd.openmmlab.doctor.examination import examine
from cankd.openmmlab.doctor.finding import ERROR, NOT_CHECKED, OK, WARNING, Finding, all_changes
from cankd.openmmlab.doctor.start import StartSummaryHook

__all__ = ["ERROR", "NOT_CHECKED", "OK", "WARNING", "Finding", "StartSummaryHook", "all_changes", "examine"]
