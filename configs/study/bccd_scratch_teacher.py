# A weaker teacher: the student with a wider ResNet-34, trained longer, from random weights too.
_base_ = ["./bccd_student.py"]

model = dict(backbone=dict(depth=34, base_channels=24), neck=dict(in_channels=[24, 48, 96, 192]))
max_iters = 2400
train_cfg = dict(max_iters=max_iters, val_interval=600)
param_scheduler = [dict(type="OneCycleLR", eta_max=1e-3, total_steps=max_iters, by_epoch=False)]
