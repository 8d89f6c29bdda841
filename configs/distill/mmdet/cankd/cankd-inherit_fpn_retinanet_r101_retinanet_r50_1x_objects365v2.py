# No checkpoint of the teacher is published; train it first:
# bash tools/dist_train.sh configs/teachers/retinanet_r101_fpn_1x_objects365v2.py 8
_base_ = [
    "../../../_base_/fpn.py",
    "mmdet::_base_/datasets/objects365v2_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]

model = dict(
    architecture=dict(cfg="mmdet::objects365/retinanet_r50_fpn_1x_objects365v2.py"),
    teacher=dict(cfg="mmdet::objects365/retinanet_r50_fpn_1x_objects365v2.py", backbone=dict(depth=101)),
    teacher_ckpt="work_dirs/retinanet_r101_fpn_1x_objects365v2/epoch_12.pth",
)
custom_hooks = [dict(type="InheritTeacherHook")]
optim_wrapper = dict(optimizer=dict(lr=0.01), clip_grad=dict(max_norm=35, norm_type=2))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=10000),
    dict(type="MultiStepLR", begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
auto_scale_lr = dict(base_batch_size=8)
val_cfg = dict(type="DistillValLoop")
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
