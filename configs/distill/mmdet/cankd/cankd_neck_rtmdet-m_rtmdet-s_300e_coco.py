_base_ = "mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py"
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _delete_=True,
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=dict(type="StockModel", cfg="mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py"),
    teacher=dict(type="StockModel", cfg="mmdet::rtmdet/rtmdet_m_8xb32-300e_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v3.0/rtmdet/rtmdet_m_8xb32-300e_coco/"
    "rtmdet_m_8xb32-300e_coco_20220719_112220-229f527c.pth",
    distiller=dict(
        type="LevelDistiller",
        source="neck",
        levels=[0, 1, 2],
        loss=dict(type="NLKDINLoss", in_channels=192, loss_weight=10),
        connector=dict(type="ConvModuleConnector", in_channel=128, out_channel=192, norm_cfg=None, act_cfg=None),
    ),
)
find_unused_parameters = True
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
