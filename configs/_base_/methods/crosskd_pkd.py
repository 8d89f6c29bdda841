# PKD beside CrossKD, on all five FPN levels (arXiv 2306.11369). A leaf gives its losses.
pkd = dict(
    type="ConfigurableDistiller",
    student_recorders=dict(fpn=dict(type="ModuleOutputs", source="neck")),
    teacher_recorders=dict(fpn=dict(type="ModuleOutputs", source="neck")),
    loss_forward_mappings={
        f"loss_fpn{level}": dict(
            preds_S=dict(recorder="fpn", from_student=True, data_idx=level),
            preds_T=dict(recorder="fpn", from_student=False, data_idx=level),
        )
        for level in range(5)
    },
)
