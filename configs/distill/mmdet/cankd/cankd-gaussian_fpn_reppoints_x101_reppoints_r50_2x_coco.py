_base_ = ["./cankd_fpn_reppoints_x101_reppoints_r50_2x_coco.py"]

model = dict(distiller=dict(distill_losses={f"loss_fpn{level}": dict(affinity="gaussian") for level in range(4)}))
