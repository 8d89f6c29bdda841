# Distillation of a segmenter's backbone: the last stages' maps, the student's mapped to the teacher's
# channels by a 1x1 convolution. Stock Cityscapes data, 80k iterations, the published optimizer
# (2 GPUs, batch 2 each), a validation that knows the teacher's score.
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
        type="ConfigurableDistiller",
        student_recorders=dict(backbone=dict(type="ModuleOutputs", source="backbone.layer4")),
        teacher_recorders=dict(backbone=dict(type="ModuleOutputs", source="backbone.layer4")),
        connectors=dict(
            backbone=dict(type="ConvModuleConnector", in_channel=512, out_channel=2048, norm_cfg=None, act_cfg=None)
        ),
        distill_losses=dict(loss_backbone=dict(type="NLKDINLoss", in_channels=2048, loss_weight=10)),
        loss_forward_mappings=dict(
            loss_backbone=dict(
                s_feature=dict(recorder="backbone", from_student=True, connector="backbone"),
                t_feature=dict(recorder="backbone", from_student=False),
            )
        ),
    ),
)
find_unused_parameters = True
train_dataloader = dict(batch_size=2)
auto_scale_lr = dict(enable=False, base_batch_size=4)
val_cfg = dict(type="DistillValLoop")
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
