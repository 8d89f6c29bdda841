_base_ = ["mmdet::objects365/retinanet_r50_fpn_1x_objects365v2.py"]

model = dict(backbone=dict(depth=101, init_cfg=dict(checkpoint="torchvision://resnet101")))
