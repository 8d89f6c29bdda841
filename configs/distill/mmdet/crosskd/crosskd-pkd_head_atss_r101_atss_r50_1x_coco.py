_base_ = ["./crosskd_head_atss_r101_atss_r50_1x_coco.py", "../../../_base_/methods/crosskd_pkd.py"]

losses = {f"loss_fpn{level}": dict(type="PKDLoss", loss_weight=1) for level in range(5)}
model = dict(distiller=dict(_base_.pkd, distill_losses=losses))
