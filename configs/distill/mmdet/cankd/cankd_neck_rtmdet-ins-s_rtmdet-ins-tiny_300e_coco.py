# Instance segmentation: box and mask AP.
_base_ = "mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py"
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _delete_=True,
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=dict(type="StockModel", cfg="mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py"),
    teacher=dict(type="StockModel", cfg="mmdet::rtmdet/rtmdet-ins_s_8xb32-300e_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v3.0/rtmdet/rtmdet-ins_s_8xb32-300e_coco/"
    "rtmdet-ins_s_8xb32-300e_coco_20221121_212604-fdc5d7ec.pth",
    distiller=dict(
        type="LevelDistiller",
        source="neck",
        levels=[0, 1, 2],
        loss=dict(type="NLKDINLoss", in_channels=128, loss_weight=10),
        connector=dict(type="ConvModuleConnector", in_channel=96, out_channel=128, norm_cfg=None, act_cfg=None),
    ),
)
find_unused_parameters = True
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
