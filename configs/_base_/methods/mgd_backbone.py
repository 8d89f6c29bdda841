# MGD on a segmenter's last stage (arXiv 2205.01529).
method = dict(
    distiller=dict(
        connectors=dict(
            backbone=dict(
                _delete_=True, type="MGDConnector", student_channels=512, teacher_channels=2048, lambda_mgd=0.75
            )
        ),
        distill_losses=dict(loss_backbone=dict(_delete_=True, type="MGDLoss", alpha_mgd=2e-5)),
        loss_forward_mappings=dict(
            loss_backbone=dict(
                _delete_=True,
                preds_S=dict(recorder="backbone", from_student=True, connector="backbone"),
                preds_T=dict(recorder="backbone", from_student=False),
            )
        ),
    )
)
