_base_ = ["../../../_base_/crosskd.py", "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco.py"]

model = dict(
    _base_.crosskd,
    _delete_=True,
    architecture=dict(type="StockModel", cfg="mmdet::fcos/fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco.py"),
    teacher=dict(type="StockModel", cfg="mmdet::fcos/fcos_r101-caffe_fpn_gn-head_ms-640-800-2x_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/fcos/fcos_r101_caffe_fpn_gn-head_mstrain_640-800_2x_coco/"
    "fcos_r101_caffe_fpn_gn-head_mstrain_640-800_2x_coco-511424d6.pth",
)
auto_scale_lr = dict(enable=True, base_batch_size=16)
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
