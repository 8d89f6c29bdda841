# PKD with its weight for detectors: no configuration is published (arXiv 2207.02039). Nothing is inherited.
_base_ = ["../cankd/cankd_neck_dino_r101_dino_r50_12e_coco.py"]

model = dict(distiller=dict(loss=dict(_delete_=True, type="PKDLoss", loss_weight=6)))
custom_hooks = []
