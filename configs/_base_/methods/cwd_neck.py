# CWD on the neck's maps of a DETR, as CanKD's authors configure it for DINO (arXiv 2011.13256).
method = dict(
    distiller=dict(
        distill_losses=dict(
            _delete_=True,
            **{f"loss_neck{level}": dict(type="ChannelWiseDivergence", tau=1, loss_weight=10) for level in range(3)},
        ),
        loss_forward_mappings=dict(
            _delete_=True,
            **{
                f"loss_neck{level}": dict(
                    preds_S=dict(recorder="neck", from_student=True, data_idx=level),
                    preds_T=dict(recorder="neck", from_student=False, data_idx=level),
                )
                for level in range(3)
            },
        ),
    )
)
