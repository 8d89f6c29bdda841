_base_ = [
    "../cankd/cankd_neck_grounding-dino_r101_grounding-dino_r50_1x_coco.py",
    "../../../_base_/methods/pkd_neck.py",
]

# Nothing is inherited.
model = _base_.pkd
custom_hooks = []
