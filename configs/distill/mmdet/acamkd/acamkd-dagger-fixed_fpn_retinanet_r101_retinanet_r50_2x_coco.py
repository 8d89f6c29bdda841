_base_ = ["./acamkd-dagger_fpn_retinanet_r101_retinanet_r50_2x_coco.py"]

model = dict(
    distiller=dict(distill_losses={f"loss_fpn{level}": dict(mask_source="fixed_teacher") for level in range(5)})
)
