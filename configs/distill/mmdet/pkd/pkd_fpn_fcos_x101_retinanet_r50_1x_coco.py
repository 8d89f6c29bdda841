# As mmrazor configures it for this pair.
_base_ = ["../../../_base_/detection_coco_1x.py", "../../../_base_/methods/pkd_fpn.py"]

model = dict(
    architecture=dict(cfg="mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"),
    teacher=dict(cfg="mmdet::fcos/fcos_x101-64x4d_fpn_gn-head_ms-640-800-2x_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/fcos/fcos_x101_64x4d_fpn_gn-head_mstrain_640-800_2x_coco/"
    "fcos_x101_64x4d_fpn_gn-head_mstrain_640-800_2x_coco-ede514a8.pth",
    distiller=dict(loss=dict(loss_weight=10)),
)
