_base_ = ["../../../_base_/crosskd.py", "mmdet::atss/atss_r50_fpn_1x_coco.py"]

model = dict(
    _base_.crosskd,
    _delete_=True,
    architecture=dict(type="StockModel", cfg="mmdet::atss/atss_r50_fpn_1x_coco.py"),
    teacher=dict(type="StockModel", cfg="mmdet::atss/atss_r101_fpn_1x_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/atss/atss_r101_fpn_1x_coco/"
    "atss_r101_fpn_1x_20200825-dfcadd6f.pth",
)
train_dataloader = dict(batch_size=8)
auto_scale_lr = dict(enable=True, base_batch_size=16)
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
