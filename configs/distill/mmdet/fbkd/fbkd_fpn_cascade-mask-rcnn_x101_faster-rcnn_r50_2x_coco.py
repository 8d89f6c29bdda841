_base_ = ["../cankd/cankd_fpn_cascade-mask-rcnn_x101_faster-rcnn_r50_2x_coco.py", "../../../_base_/methods/fbkd_fpn.py"]

# As published for two-stage detectors, with weights of their own.
model = _base_.method
model.distiller.distill_losses.update({f"loss_fpn{level}": dict(type="FBKDLoss", loss_weight=1) for level in range(4)})
