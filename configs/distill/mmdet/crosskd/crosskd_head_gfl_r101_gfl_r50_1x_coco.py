_base_ = ["../../../_base_/crosskd.py", "mmdet::gfl/gfl_r50_fpn_1x_coco.py"]

model = dict(
    _base_.crosskd,
    _delete_=True,
    architecture=dict(type="StockModel", cfg="mmdet::gfl/gfl_r50_fpn_1x_coco.py"),
    teacher=dict(type="StockModel", cfg="mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_r101_fpn_mstrain_2x_coco/"
    "gfl_r101_fpn_mstrain_2x_coco_20200629_200126-dd12f847.pth",
)
auto_scale_lr = dict(enable=True, base_batch_size=16)
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
