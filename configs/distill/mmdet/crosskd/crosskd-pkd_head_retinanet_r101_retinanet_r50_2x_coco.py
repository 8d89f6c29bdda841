_base_ = ["./crosskd_head_retinanet_r101_retinanet_r50_2x_coco.py", "../../../_base_/methods/crosskd_pkd.py"]

losses = {f"loss_fpn{level}": dict(type="PKDLoss", loss_weight=2) for level in range(5)}
model = dict(distiller=dict(_base_.pkd, distill_losses=losses))
