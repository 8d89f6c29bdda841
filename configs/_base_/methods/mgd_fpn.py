# MGD on all five FPN levels, with the weights of one-stage detectors (arXiv 2205.01529).
method = dict(
    distiller=dict(
        connectors={
            f"fpn{level}": dict(type="MGDConnector", student_channels=256, teacher_channels=256, lambda_mgd=0.65)
            for level in range(5)
        },
        distill_losses=dict(
            _delete_=True, **{f"loss_fpn{level}": dict(type="MGDLoss", alpha_mgd=2e-5) for level in range(5)}
        ),
        loss_forward_mappings=dict(
            _delete_=True,
            **{
                f"loss_fpn{level}": dict(
                    preds_S=dict(recorder="fpn", from_student=True, data_idx=level, connector=f"fpn{level}"),
                    preds_T=dict(recorder="fpn", from_student=False, data_idx=level),
                )
                for level in range(5)
            },
        ),
    )
)
