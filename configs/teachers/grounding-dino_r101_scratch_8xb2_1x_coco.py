_base_ = ["mmdet::grounding_dino/grounding_dino_r50_scratch_8xb2_1x_coco.py"]

model = dict(backbone=dict(depth=101, init_cfg=dict(checkpoint="torchvision://resnet101")))
