# As mmrazor configures it for this pair; the loss itself resizes the student's maps, and nothing is inherited.
_base_ = ["../../../_base_/detection_coco_2x.py", "../../../_base_/methods/pkd_fpn.py"]

model = dict(
    architecture=dict(cfg="mmdet::retinanet/retinanet_r50_fpn_2x_coco.py"),
    teacher=dict(cfg="mmdet::swin/mask-rcnn_swin-s-p4-w7_fpn_amp-ms-crop-3x_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/swin/mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-3x_coco/"
    "mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-3x_coco_20210903_104808-b92c91f1.pth",
    distiller=dict(levels=[0, 1, 2, 3]),
)
custom_hooks = []
