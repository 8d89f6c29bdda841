"""Distillation algorithms that mmrazor lacks."""

from cankd.algorithms.crosskd import CrossKD
from cankd.algorithms.partial_teacher import PartialTeacherDistill
from cankd.algorithms.parts_distiller import PartsDistiller

__all__ = ["CrossKD", "PartialTeacherDistill", "PartsDistiller"]
