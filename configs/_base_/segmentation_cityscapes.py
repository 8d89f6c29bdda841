# Cityscapes for 80k iterations: stock data, the published optimizer (2 GPUs, batch 2 each), a validation that also
# evaluates the teacher, and checkpoints without the teacher.
_base_ = [
    "mmseg::_base_/datasets/cityscapes.py",
    "mmseg::_base_/schedules/schedule_80k.py",
    "mmseg::_base_/default_runtime.py",
]

train_dataloader = dict(batch_size=2)
auto_scale_lr = dict(enable=False, base_batch_size=4)
val_cfg = dict(type="DistillValLoop")
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
