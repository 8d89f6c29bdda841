_base_ = ["../cankd/cankd_fpn_faster-rcnn_r101_faster-rcnn_r50_2x_coco.py", "../../../_base_/methods/fgd_fpn.py"]

# As published for two-stage detectors: P2-P5, with weights of their own.
model = _base_.method
model.distiller.loss_forward_mappings.pop("loss_fpn4")
model.distiller.distill_losses = dict(
    _delete_=True,
    **{f"loss_fpn{level}": dict(type="FGDLoss", in_channels=256, **_base_.two_stage_weights) for level in range(4)},
)
