# Instance segmentation: box and mask AP.
_base_ = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_2x_coco.py"
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _delete_=True,
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=dict(type="StockModel", cfg="mmdet::mask_rcnn/mask-rcnn_r50_fpn_2x_coco.py"),
    teacher=dict(type="StockModel", cfg="mmdet::mask_rcnn/mask-rcnn_r101_fpn_2x_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn/mask_rcnn_r101_fpn_2x_coco/"
    "mask_rcnn_r101_fpn_2x_coco_bbox_mAP-0.408__segm_mAP-0.366_20200505_071027-14b391c7.pth",
    distiller=dict(
        type="LevelDistiller",
        source="neck",
        name="fpn",
        levels=[0, 1, 2, 3],
        loss=dict(type="NLKDINLoss", in_channels=256, loss_weight=10),
    ),
)
find_unused_parameters = True
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
