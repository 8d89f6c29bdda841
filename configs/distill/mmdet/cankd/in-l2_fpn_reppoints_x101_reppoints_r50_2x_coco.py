_base_ = ["./cankd_fpn_reppoints_x101_reppoints_r50_2x_coco.py"]

loss = dict(_delete_=True, type="FeatureMSELoss", loss_weight=10, instance_norm=True)
model = dict(distiller=dict(distill_losses={f"loss_fpn{level}": loss for level in range(4)}))
