# PKD on a segmenter's last stage, with its weight for detectors: the paper has no segmenters (arXiv 2207.02039).
method = dict(
    distiller=dict(
        distill_losses=dict(loss_backbone=dict(_delete_=True, type="PKDLoss", loss_weight=6)),
        loss_forward_mappings=dict(
            loss_backbone=dict(
                _delete_=True,
                preds_S=dict(recorder="backbone", from_student=True, connector="backbone"),
                preds_T=dict(recorder="backbone", from_student=False),
            )
        ),
    )
)
