# Distillation of FPN levels: the student's against the teacher's neck outputs 0 to 3, which are
# P3-P6 for one-stage detectors and P2-P5 for two-stage ones. The teacher runs up to its neck.
custom_imports = dict(imports=["cankd.openmmlab"])

loss = dict(type="NLKDINLoss", in_channels=256, loss_weight=10)
model = dict(
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=dict(type="StockModel"),
    teacher=dict(type="StockModel"),
    distiller=dict(
        type="ConfigurableDistiller",
        student_recorders=dict(fpn=dict(type="ModuleOutputs", source="neck")),
        teacher_recorders=dict(fpn=dict(type="ModuleOutputs", source="neck")),
        distill_losses={f"loss_fpn{level}": dict(loss) for level in range(4)},
        loss_forward_mappings={
            f"loss_fpn{level}": dict(
                s_feature=dict(recorder="fpn", from_student=True, data_idx=level),
                t_feature=dict(recorder="fpn", from_student=False, data_idx=level),
            )
            for level in range(4)
        },
    ),
)
find_unused_parameters = True
