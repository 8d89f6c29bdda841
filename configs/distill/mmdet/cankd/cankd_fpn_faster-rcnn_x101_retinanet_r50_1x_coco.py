# Student P3-P6 against teacher P2-P5: the student's maps are resized to the teacher's.
_base_ = ["../../../_base_/detection_coco_1x.py", "../../../_base_/fpn.py"]

model = dict(
    architecture=dict(cfg="mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"),
    teacher=dict(cfg="mmdet::faster_rcnn/faster-rcnn_x101-32x4d_fpn_1x_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/faster_rcnn/faster_rcnn_x101_32x4d_fpn_1x_coco/"
    "faster_rcnn_x101_32x4d_fpn_1x_coco_20200203-cff10310.pth",
    distiller=dict(levels=[0, 1, 2, 3], loss=dict(align=True)),
)
