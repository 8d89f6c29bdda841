# PKD on FPN levels 0 to 3, as mmrazor configures it (arXiv 2207.02039).
method = dict(
    distiller=dict(
        distill_losses=dict(
            _delete_=True, **{f"loss_fpn{level}": dict(type="PKDLoss", loss_weight=6) for level in range(4)}
        ),
        loss_forward_mappings=dict(
            _delete_=True,
            **{
                f"loss_fpn{level}": dict(
                    preds_S=dict(recorder="fpn", from_student=True, data_idx=level),
                    preds_T=dict(recorder="fpn", from_student=False, data_idx=level),
                )
                for level in range(4)
            },
        ),
    )
)
