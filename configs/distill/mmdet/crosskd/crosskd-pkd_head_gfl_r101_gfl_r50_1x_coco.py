_base_ = ["./crosskd_head_gfl_r101_gfl_r50_1x_coco.py", "../../../_base_/methods/crosskd_pkd.py"]

losses = {f"loss_fpn{level}": dict(type="PKDLoss", loss_weight=6) for level in range(5)}
model = dict(distiller=dict(_base_.pkd, distill_losses=losses))
