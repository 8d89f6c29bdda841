_base_ = ["../../../_base_/detection_coco_2x.py", "../../../_base_/methods/crosskd.py"]

model = dict(
    architecture=dict(cfg="mmdet::retinanet/retinanet_r50_fpn_2x_coco.py"),
    teacher=dict(cfg="mmdet::retinanet/retinanet_r101_fpn_2x_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r101_fpn_2x_coco/"
    "retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth",
)
find_unused_parameters = True
