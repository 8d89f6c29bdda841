_base_ = ["../cankd/cankd_fpn_faster-rcnn_r101_faster-rcnn_r50_2x_coco.py", "../../../_base_/methods/mgd_fpn.py"]

# As published for two-stage detectors: P2-P5, with weights of their own.
model = _base_.method
model.distiller.loss_forward_mappings.pop("loss_fpn4")
model.distiller.distill_losses = dict(
    _delete_=True, **{f"loss_fpn{level}": dict(type="MGDLoss", alpha_mgd=5e-7) for level in range(4)}
)
model.distiller.connectors = {
    f"fpn{level}": dict(type="MGDConnector", student_channels=256, teacher_channels=256, lambda_mgd=0.45)
    for level in range(4)
}
