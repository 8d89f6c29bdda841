_base_ = ["../../../_base_/detection_coco_2x.py", "../../../_base_/fpn.py"]

model = dict(
    architecture=dict(cfg="mmdet::retinanet/retinanet_r50_fpn_2x_coco.py"),
    teacher=dict(cfg="mmdet::retinanet/retinanet_x101-64x4d_fpn_1x_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_x101_64x4d_fpn_1x_coco/"
    "retinanet_x101_64x4d_fpn_1x_coco_20200130-366f5af1.pth",
)
