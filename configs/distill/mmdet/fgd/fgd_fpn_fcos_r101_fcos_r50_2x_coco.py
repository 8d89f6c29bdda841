_base_ = ["../cankd/cankd_fpn_fcos_r101_fcos_r50_2x_coco.py", "../../../_base_/methods/fgd_fpn.py"]

# As published for FCOS, with weights and a temperature of its own.
model = _base_.method
model.distiller.distill_losses.update(
    {
        f"loss_fpn{level}": dict(type="FGDLoss", in_channels=256, temperature=0.8, **_base_.large_weights)
        for level in range(5)
    }
)
