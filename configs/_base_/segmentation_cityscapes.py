# CanKD on the last stage of a segmenter's backbone; a 1x1 convolution maps the student's channels to the teacher's.
# Stock Cityscapes data, 80k iterations, the published optimizer (2 GPUs, batch 2 each), a validation that also
# evaluates the teacher, and checkpoints without the teacher.
_base_ = [
    "mmseg::_base_/datasets/cityscapes.py",
    "mmseg::_base_/schedules/schedule_80k.py",
    "mmseg::_base_/default_runtime.py",
]
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=dict(type="StockModel"),
    teacher=dict(type="StockModel"),
    distiller=dict(
        type="LevelDistiller",
        source="backbone.layer4",
        loss=dict(type="NLKDINLoss", in_channels=2048, loss_weight=10),
        connector=dict(type="ConvModuleConnector", in_channel=512, out_channel=2048, norm_cfg=None, act_cfg=None),
    ),
)
find_unused_parameters = True
train_dataloader = dict(batch_size=2)
auto_scale_lr = dict(enable=False, base_batch_size=4)
val_cfg = dict(type="DistillValLoop")
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
