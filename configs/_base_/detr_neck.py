# Distillation of a DETR's neck: the student's first three maps against the teacher's. A leaf whose models
# have a fourth resolution in their backbones takes all of `losses` and `mappings`.
# Stock DETR files bring models and pipelines of their own, so this base holds the distiller alone; a leaf
# names it in its `model`, which replaces the stock one.
custom_imports = dict(imports=["cankd.openmmlab"])

losses = {f"loss_neck{level}": dict(type="NLKDINLoss", in_channels=256, loss_weight=10) for level in range(4)}
mappings = {
    f"loss_neck{level}": dict(
        s_feature=dict(recorder="neck", from_student=True, data_idx=level),
        t_feature=dict(recorder="neck", from_student=False, data_idx=level),
    )
    for level in range(4)
}
distiller = dict(
    type="ConfigurableDistiller",
    student_recorders=dict(neck=dict(type="ModuleOutputs", source="neck")),
    teacher_recorders=dict(neck=dict(type="ModuleOutputs", source="neck")),
    distill_losses={name: losses[name] for name in list(losses)[:3]},
    loss_forward_mappings={name: mappings[name] for name in list(losses)[:3]},
)
