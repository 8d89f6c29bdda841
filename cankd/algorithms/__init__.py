"""Distillation algorithms that mmrazor lacks."""

from cankd.algorithms.partial_teacher import PartialTeacherDistill

__all__ = ["PartialTeacherDistill"]
