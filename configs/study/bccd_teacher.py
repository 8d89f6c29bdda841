# BCCD's teacher: the same neck and head on a MobileNetV2 that ImageNet trained (docs/study.md says where it is from).
_base_ = ["./bccd_student.py"]

model = dict(
    backbone=dict(
        _delete_=True,
        _replace_=True,
        type="MobileNetV2",
        out_indices=(1, 2, 4, 6),
        init_cfg=dict(type="Pretrained", checkpoint="data/mobilenet_v2.pth"),
    ),
    neck=dict(in_channels=[24, 32, 96, 320]),
)
max_iters = 1200
train_cfg = dict(max_iters=max_iters, val_interval=200)
param_scheduler = [dict(type="OneCycleLR", eta_max=1e-3, total_steps=max_iters, by_epoch=False)]
