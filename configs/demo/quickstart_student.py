# The student alone: the stock RetinaNet made small enough for a CPU.
_base_ = ["./quickstart_data.py"]
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    type="mmrazor.StockModel",
    cfg="mmdet::retinanet/retinanet_r50_fpn_1x_coco.py",
    backbone=dict(depth=18, base_channels=16, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=64, start_level=0, add_extra_convs=False, num_outs=4),
    bbox_head=dict(
        num_classes=10,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        anchor_generator=dict(scales_per_octave=2, strides=[4, 8, 16, 32]),
    ),
)
