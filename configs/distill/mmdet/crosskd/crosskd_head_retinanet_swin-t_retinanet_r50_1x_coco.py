# CrossKD as published (arXiv 2306.11369): the student's stock data, schedule and optimizer (0.01 for every 16 images).
# No checkpoint of the teacher is published; train it first:
# bash tools/dist_train.sh configs/teachers/retinanet_swin-t-p4-w7_fpn_1x_coco.py 4
_base_ = ["mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"]
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _delete_=True,  # replaces the model of the base
    _scope_="mmrazor",
    type="CrossKD",
    architecture=dict(
        type="StockModel",
        cfg="mmdet::retinanet/retinanet_r50_fpn_1x_coco.py",
        neck=dict(add_extra_convs="on_output"),
    ),
    teacher=dict(type="StockModel", cfg="mmdet::swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py"),
    teacher_ckpt="work_dirs/retinanet_swin-t-p4-w7_fpn_1x_coco/epoch_12.pth",
    distiller=dict(type="ConfigurableDistiller"),
)
auto_scale_lr = dict(enable=True, base_batch_size=16)
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
