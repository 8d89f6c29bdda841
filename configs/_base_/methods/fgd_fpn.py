# FGD on all five FPN levels, with the weights of RetinaNet and GFL (arXiv 2111.11837). The ground truth boxes come
# from the student's own inputs, recorded as `model`.
method = dict(
    distiller=dict(
        type="PartsDistiller",
        student_recorders=dict(model=dict(type="ModuleInputs", source="")),
        distill_losses=dict(
            _delete_=True, **{f"loss_fpn{level}": dict(type="FGDLoss", in_channels=256) for level in range(5)}
        ),
        loss_forward_mappings={
            f"loss_fpn{level}": dict(
                s_feature=dict(recorder="fpn", from_student=True, data_idx=level),
                t_feature=dict(recorder="fpn", from_student=False, data_idx=level),
                data_samples=dict(recorder="model", from_student=True, data_idx=1),
            )
            for level in range(5)
        },
    )
)
# Of RepPoints and FCOS, and of two-stage detectors.
large_weights = dict(foreground_weight=1.6e-3, background_weight=8e-4, attention_weight=8e-4, global_weight=8e-6)
two_stage_weights = dict(foreground_weight=5e-5, background_weight=2.5e-5, attention_weight=5e-5, global_weight=5e-7)
