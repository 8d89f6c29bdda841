_base_ = ["../cankd/cankd_fpn_fcos_x101_retinanet_r50_1x_coco.py", "../../../_base_/methods/pkd_fpn.py"]

# As mmrazor configures it for this pair.
model = _base_.method
model.distiller.distill_losses.update({f"loss_fpn{level}": dict(type="PKDLoss", loss_weight=10) for level in range(4)})
