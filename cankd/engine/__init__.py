"""What training and testing need beyond mmengine."""

from cankd.engine.distill_checkpoint_hook import DistillCheckpointHook
from cankd.engine.distill_val_loop import DistillValLoop
from cankd.engine.inherit_teacher_hook import InheritTeacherHook
from cankd.engine.resumable_checkpoint_hook import ResumableCheckpointHook
from cankd.engine.run_checks import FiniteLossHook, NonFiniteLoss, RunChecksHook
from cankd.engine.runner import CPUDistributedDataParallel, Runner

__all__ = [
    "CPUDistributedDataParallel",
    "DistillCheckpointHook",
    "DistillValLoop",
    "FiniteLossHook",
    "InheritTeacherHook",
    "NonFiniteLoss",
    "ResumableCheckpointHook",
    "RunChecksHook",
    "Runner",
]
