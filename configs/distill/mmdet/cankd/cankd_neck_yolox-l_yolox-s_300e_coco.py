_base_ = "mmdet::yolox/yolox_s_8xb8-300e_coco.py"
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _delete_=True,
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=dict(type="StockModel", cfg="mmdet::yolox/yolox_s_8xb8-300e_coco.py"),
    teacher=dict(type="StockModel", cfg="mmdet::yolox/yolox_l_8xb8-300e_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/yolox/yolox_l_8x8_300e_coco/"
    "yolox_l_8x8_300e_coco_20211126_140236-d3bd2b23.pth",
    distiller=dict(
        type="LevelDistiller",
        source="neck",
        levels=[0, 1, 2],
        loss=dict(type="NLKDINLoss", in_channels=256, loss_weight=10),
        connector=dict(type="ConvModuleConnector", in_channel=128, out_channel=256, norm_cfg=None, act_cfg=None),
    ),
)
find_unused_parameters = True
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
