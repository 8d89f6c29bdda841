_base_ = ["../../../_base_/detection_coco_2x.py", "../../../_base_/methods/cwd_fpn.py"]

model = dict(
    architecture=dict(cfg="mmdet::faster_rcnn/faster-rcnn_r50_fpn_2x_coco.py"),
    teacher=dict(cfg="mmdet::faster_rcnn/faster-rcnn_r101_fpn_2x_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/faster_rcnn/faster_rcnn_r101_fpn_2x_coco/"
    "faster_rcnn_r101_fpn_2x_coco_bbox_mAP-0.398_20200504_210455-1d2dac9c.pth",
)
