"""What training and testing need beyond mmengine."""

from cankd.engine.inherit_teacher_hook import InheritTeacherHook
from cankd.engine.runner import CPUDistributedDataParallel, Runner

__all__ = ["CPUDistributedDataParallel", "InheritTeacherHook", "Runner"]
