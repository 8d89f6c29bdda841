# CWD on all five FPN levels, as mmrazor configures it (arXiv 2011.13256).
method = dict(
    distiller=dict(
        distill_losses=dict(
            _delete_=True,
            **{f"loss_fpn{level}": dict(type="ChannelWiseDivergence", tau=1, loss_weight=10) for level in range(5)},
        ),
        loss_forward_mappings=dict(
            _delete_=True,
            **{
                f"loss_fpn{level}": dict(
                    preds_S=dict(recorder="fpn", from_student=True, data_idx=level),
                    preds_T=dict(recorder="fpn", from_student=False, data_idx=level),
                )
                for level in range(5)
            },
        ),
    )
)
