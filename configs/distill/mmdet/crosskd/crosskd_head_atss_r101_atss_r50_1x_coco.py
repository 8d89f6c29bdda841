# CrossKD as published (arXiv 2306.11369): the student's stock data, schedule and optimizer (0.01 for every 16 images).
_base_ = ["mmdet::atss/atss_r50_fpn_1x_coco.py"]
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _delete_=True,  # replaces the model of the base
    _scope_="mmrazor",
    type="CrossKD",
    architecture=dict(type="StockModel", cfg="mmdet::atss/atss_r50_fpn_1x_coco.py"),
    teacher=dict(type="StockModel", cfg="mmdet::atss/atss_r101_fpn_1x_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/atss/atss_r101_fpn_1x_coco/"
    "atss_r101_fpn_1x_20200825-dfcadd6f.pth",
    distiller=dict(type="ConfigurableDistiller"),
)
train_dataloader = dict(batch_size=8)
auto_scale_lr = dict(enable=True, base_batch_size=16)
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
