# ACAM-KD on a segmenter's last stage, a mask for each of Cityscapes' 19 classes (arXiv 2503.06307).
method = dict(
    distiller=dict(
        type="PartsDistiller",
        distill_losses=dict(loss_backbone=dict(_delete_=True, type="ACAMKDLoss", in_channels=2048, num_masks=19)),
    )
)
