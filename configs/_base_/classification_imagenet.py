# CanKD on the last stage of a classifier's backbone, on ImageNet-1k: 100 epochs, stock data and schedule.
_base_ = [
    "mmpretrain::_base_/datasets/imagenet_bs32.py",
    "mmpretrain::_base_/schedules/imagenet_bs256.py",
    "mmpretrain::_base_/default_runtime.py",
]
custom_imports = dict(imports=["cankd.openmmlab"])

data_preprocessor = None  # the student brings its own; the stock one here names no type
model = dict(
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=dict(type="StockModel"),
    teacher=dict(type="StockModel"),
    distiller=dict(
        type="LevelDistiller", source="backbone", levels="last", loss=dict(type="NLKDINLoss", loss_weight=10)
    ),
)
find_unused_parameters = True
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
