"""Runner, hooks and loops of training and testing, beyond those of mmengine and mmrazor."""

from cankd.openmmlab.engine.distill_checkpoint_hook import DistillCheckpointHook
from cankd.openmmlab.engine.distill_monitor_hook import DistillMonitorHook
from cankd.openmmlab.engine.distill_val_loop import DistillValLoop
from cankd.openmmlab.engine.distill_weight_hook import DistillWeightHook
from cankd.openmmlab.engine.gradient_ratio_hook import GradientRatioHook
from cankd.openmmlab.engine.inherit_teacher_hook import InheritTeacherHook
from cankd.openmmlab.engine.resumable_checkpoint_hook import ResumableCheckpointHook
from cankd.openmmlab.engine.run_checks import FiniteLossHook, NonFiniteLoss, RunChecksHook
from cankd.openmmlab.engine.runner import CPUDistributedDataParallel, Runner

__all__ = [
    "CPUDistributedDataParallel",
    "DistillCheckpointHook",
    "DistillMonitorHook",
    "DistillValLoop",
    "DistillWeightHook",
    "FiniteLossHook",
    "GradientRatioHook",
    "InheritTeacherHook",
    "NonFiniteLoss",
    "ResumableCheckpointHook",
    "RunChecksHook",
    "Runner",
]
