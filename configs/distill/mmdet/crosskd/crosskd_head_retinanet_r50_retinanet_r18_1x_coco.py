_base_ = ["../../../_base_/crosskd.py", "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py"]

model = dict(
    _base_.crosskd,
    _delete_=True,
    architecture=dict(
        type="StockModel",
        cfg="mmdet::retinanet/retinanet_r18_fpn_1x_coco.py",
        neck=dict(add_extra_convs="on_output"),
    ),
    teacher=dict(type="StockModel", cfg="mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r50_fpn_1x_coco/"
    "retinanet_r50_fpn_1x_coco_20200130-c2398f9e.pth",
)
auto_scale_lr = dict(enable=True, base_batch_size=16)
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
