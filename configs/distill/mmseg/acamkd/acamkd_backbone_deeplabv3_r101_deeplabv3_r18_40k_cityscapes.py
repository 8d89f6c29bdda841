_base_ = [
    "../cankd/cankd_backbone_deeplabv3_r101_deeplabv3_r18_80k_cityscapes.py",
    "../../../_base_/methods/acamkd_backbone.py",
]

model = _base_.method
train_cfg = dict(max_iters=40000, val_interval=4000)
param_scheduler = [dict(type="PolyLR", eta_min=1e-4, power=0.9, begin=0, end=40000, by_epoch=False)]
default_hooks = dict(checkpoint=dict(interval=4000))
