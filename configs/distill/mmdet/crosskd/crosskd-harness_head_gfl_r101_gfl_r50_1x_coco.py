_base_ = ["../../../_base_/detection_coco_1x.py", "../../../_base_/methods/crosskd.py"]

model = dict(
    architecture=dict(cfg="mmdet::gfl/gfl_r50_fpn_1x_coco.py"),
    teacher=dict(cfg="mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_r101_fpn_mstrain_2x_coco/"
    "gfl_r101_fpn_mstrain_2x_coco_20200629_200126-dd12f847.pth",
)
find_unused_parameters = True
