_base_ = ["../cankd/cankd_neck_dino_r101_dino_r50_12e_coco.py", "../../../_base_/methods/pkd_neck.py"]

# Nothing is inherited.
model = _base_.pkd
custom_hooks = []
