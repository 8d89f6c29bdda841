_base_ = "mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py"
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _delete_=True,
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=dict(type="StockModel", cfg="mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py"),
    teacher=dict(type="StockModel", cfg="mmdet::dino/dino-5scale_swin-l_8xb2-36e_coco.py"),
    teacher_ckpt="https://github.com/RistoranteRist/mmlab-weights/releases/download/dino-swinl/"
    "dino-5scale_swin-l_8xb2-36e_coco-5486e051.pth",
    distiller=dict(
        type="LevelDistiller",
        source="neck",
        levels=[0, 1, 2],
        teacher_levels=[1, 2, 3],
        loss=dict(type="NLKDINLoss", in_channels=256, loss_weight=10),
        connector=dict(type="ConvModuleConnector", in_channel=128, out_channel=256, norm_cfg=None, act_cfg=None),
    ),
    teacher_preprocess=True,
)
find_unused_parameters = True
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
