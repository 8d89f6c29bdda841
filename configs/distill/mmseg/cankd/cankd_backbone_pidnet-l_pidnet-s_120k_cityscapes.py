# While it trains, PIDNet returns three maps; the second one is what it predicts from.
_base_ = "mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py"
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _delete_=True,
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=dict(type="StockModel", cfg="mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py"),
    teacher=dict(type="StockModel", cfg="mmseg::pidnet/pidnet-l_2xb6-120k_1024x1024-cityscapes.py"),
    teacher_ckpt="https://download.openmmlab.com/mmsegmentation/v0.5/pidnet/pidnet-l_2xb6-120k_1024x1024-cityscapes/"
    "pidnet-l_2xb6-120k_1024x1024-cityscapes_20230303_114514-0783ca6b.pth",
    distiller=dict(
        type="LevelDistiller",
        source="backbone",
        levels=[1],
        loss=dict(type="NLKDINLoss", in_channels=256, loss_weight=10),
        connector=dict(type="ConvModuleConnector", in_channel=128, out_channel=256, norm_cfg=None, act_cfg=None),
    ),
)
find_unused_parameters = True
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
data_preprocessor = None  # each model has its own
