_base_ = ["../cankd/cankd_fpn_reppoints_x101_reppoints_r50_2x_coco.py", "../../../_base_/methods/fgd_fpn.py"]

# As published for RepPoints, with weights of its own.
model = _base_.method
model.distiller.distill_losses.update(
    {f"loss_fpn{level}": dict(type="FGDLoss", in_channels=256, **_base_.large_weights) for level in range(5)}
)
