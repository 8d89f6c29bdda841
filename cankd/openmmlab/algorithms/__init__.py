"""Distillation algorithms that mmrazor lacks."""

from cankd.openmmlab.algorithms.crosskd import CrossKD
from cankd.openmmlab.algorithms.partial_teacher import PartialTeacherDistill

__all__ = ["CrossKD", "PartialTeacherDistill"]
