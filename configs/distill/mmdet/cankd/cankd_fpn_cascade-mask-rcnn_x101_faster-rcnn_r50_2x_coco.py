_base_ = ["../../../_base_/detection_coco_2x.py", "../../../_base_/fpn.py"]

model = dict(
    architecture=dict(cfg="mmdet::faster_rcnn/faster-rcnn_r50_fpn_2x_coco.py"),
    teacher=dict(cfg="mmdet::cascade_rcnn/cascade-mask-rcnn_x101-64x4d_fpn_20e_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/cascade_rcnn/cascade_mask_rcnn_x101_64x4d_fpn_20e_coco/"
    "cascade_mask_rcnn_x101_64x4d_fpn_20e_coco_20200512_161033-bdb5126a.pth",
)
