# COCO for 12 epochs: stock data, the published optimizer (2 GPUs, batch 2 each), a validation that also evaluates the
# teacher, and checkpoints without the teacher.
_base_ = [
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]

optim_wrapper = dict(optimizer=dict(lr=0.005), clip_grad=dict(max_norm=35, norm_type=2))
auto_scale_lr = dict(base_batch_size=4)
val_cfg = dict(type="DistillValLoop")
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
