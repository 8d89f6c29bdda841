# CamVid's teacher: PSPNet, wider, on a MobileNetV2 that ImageNet trained (docs/study.md says where it is from).
_base_ = ["./camvid_student.py"]

model = dict(
    backbone=dict(
        _delete_=True,
        _replace_=True,
        type="MobileNetV2",
        strides=(1, 2, 2, 1, 1, 1, 1),
        dilations=(1, 1, 1, 2, 2, 4, 4),
        out_indices=(1, 2, 4, 6),
        norm_cfg=dict(type="BN"),
        init_cfg=dict(type="Pretrained", checkpoint="data/mobilenet_v2_mmseg.pth"),
    ),
    decode_head=dict(in_channels=320, channels=128),
    auxiliary_head=dict(in_channels=96),
)
max_iters = 1200
train_cfg = dict(max_iters=max_iters, val_interval=300)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [dict(type="OneCycleLR", eta_max=1e-3, total_steps=max_iters, by_epoch=False)]
