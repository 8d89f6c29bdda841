# Plain feature mimicking of a segmenter's last stage: CanKD without its block, with its weight.
method = dict(
    distiller=dict(distill_losses=dict(loss_backbone=dict(_delete_=True, type="FeatureMSELoss", loss_weight=10)))
)
