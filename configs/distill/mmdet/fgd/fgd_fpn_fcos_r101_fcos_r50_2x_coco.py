# As published for FCOS, with weights and a temperature of its own.
_base_ = ["../../../_base_/detection_coco_2x.py", "../../../_base_/methods/fgd_fpn.py"]

model = dict(
    architecture=dict(
        cfg="mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
        bbox_head=dict(
            norm_on_bbox=True,
            center_sampling=True,
            conv_bias=True,
            centerness_on_reg=False,
            dcn_on_last_conv=False,
            loss_bbox=dict(type="GIoULoss"),
        ),
        test_cfg=dict(nms=dict(iou_threshold=0.6)),
    ),
    teacher=dict(cfg="mmdet::fcos/fcos_r101-caffe_fpn_gn-head_ms-640-800-2x_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/fcos/fcos_r101_caffe_fpn_gn-head_mstrain_640-800_2x_coco/"
    "fcos_r101_caffe_fpn_gn-head_mstrain_640-800_2x_coco-511424d6.pth",
    distiller=dict(
        loss=dict(
            temperature=0.8, foreground_weight=1.6e-3, background_weight=8e-4, attention_weight=8e-4, global_weight=8e-6
        ),
    ),
)
