_base_ = ["mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py"]

model = dict(backbone=dict(depth=101, init_cfg=dict(checkpoint="torchvision://resnet101")))
