_base_ = "mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py"
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _delete_=True,
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=dict(type="StockModel", cfg="mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py"),
    teacher=dict(type="StockModel", cfg="mmseg::segformer/segformer_mit-b4_8xb1-160k_cityscapes-1024x1024.py"),
    teacher_ckpt="https://download.openmmlab.com/mmsegmentation/v0.5/segformer/segformer_mit-b4_8x1_1024x1024_160k_cityscapes/"
    "segformer_mit-b4_8x1_1024x1024_160k_cityscapes_20211207_080709-07f6c333.pth",
    distiller=dict(
        type="LevelDistiller",
        source="backbone",
        levels=[3],
        loss=dict(type="NLKDINLoss", in_channels=512, loss_weight=10),
        connector=dict(type="ConvModuleConnector", in_channel=256, out_channel=512, norm_cfg=None, act_cfg=None),
    ),
)
find_unused_parameters = True
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
data_preprocessor = None  # each model has its own
