# PKD with its weight for detectors: no configuration is published (arXiv 2207.02039). Nothing is inherited.
_base_ = ["../cankd/cankd_neck_grounding-dino_r101_grounding-dino_r50_1x_coco.py"]

model = dict(distiller=dict(loss=dict(_delete_=True, type="PKDLoss", loss_weight=6)))
custom_hooks = []
