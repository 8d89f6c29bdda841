# CrossKD as published (arXiv 2306.11369): the student's stock data, schedule and optimizer (0.01 for every 16 images).
_base_ = ["mmdet::retinanet/retinanet_r50_fpn_2x_coco.py"]
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _delete_=True,  # replaces the model of the base
    _scope_="mmrazor",
    type="CrossKD",
    architecture=dict(
        type="StockModel",
        cfg="mmdet::retinanet/retinanet_r50_fpn_2x_coco.py",
        neck=dict(add_extra_convs="on_output"),
    ),
    teacher=dict(type="StockModel", cfg="mmdet::retinanet/retinanet_r101_fpn_2x_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r101_fpn_2x_coco/"
    "retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth",
    distiller=dict(type="ConfigurableDistiller"),
)
auto_scale_lr = dict(enable=True, base_batch_size=16)
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
