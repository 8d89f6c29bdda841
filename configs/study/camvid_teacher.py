# CamVid's teacher: the same segmenter with a wider ResNet-34, trained longer.
_base_ = ["./camvid_student.py"]

model = dict(
    backbone=dict(depth=34, base_channels=24),
    decode_head=dict(in_channels=192),
    auxiliary_head=dict(in_channels=96),
)
max_iters = 2400
train_cfg = dict(max_iters=max_iters, val_interval=600)
param_scheduler = [dict(type="OneCycleLR", eta_max=2e-3, total_steps=max_iters, by_epoch=False)]
