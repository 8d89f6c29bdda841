# Plain feature mimicking on FPN levels 0 to 3: CanKD without its block, with its weight (CanKD, table 6).
method = dict(
    distiller=dict(
        distill_losses=dict(
            _delete_=True, **{f"loss_fpn{level}": dict(type="FeatureMSELoss", loss_weight=10) for level in range(4)}
        )
    )
)
