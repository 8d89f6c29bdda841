# CrossKD as published (arXiv 2306.11369): the student's stock data, schedule and optimizer (0.01 for every 16 images).
_base_ = ["mmdet::gfl/gfl_r50_fpn_1x_coco.py"]
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _delete_=True,  # replaces the model of the base
    _scope_="mmrazor",
    type="CrossKD",
    architecture=dict(type="StockModel", cfg="mmdet::gfl/gfl_r50_fpn_1x_coco.py"),
    teacher=dict(type="StockModel", cfg="mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_r101_fpn_mstrain_2x_coco/"
    "gfl_r101_fpn_mstrain_2x_coco_20200629_200126-dd12f847.pth",
    distiller=dict(type="ConfigurableDistiller"),
)
auto_scale_lr = dict(enable=True, base_batch_size=16)
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
