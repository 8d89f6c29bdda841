# The teacher that the quickstart ships; `tools/quickstart.sh --train-teacher` trains it anew.
_base_ = ["./quickstart_student.py"]

model = dict(backbone=dict(depth=34, base_channels=24), neck=dict(in_channels=[24, 48, 96, 192]))

max_iters = 10000
train_cfg = dict(max_iters=max_iters, val_interval=1000)
param_scheduler = [dict(type="OneCycleLR", eta_max=1e-3, total_steps=max_iters, by_epoch=False)]
default_hooks = dict(checkpoint=dict(interval=max_iters))
