# CrossKD as published (arXiv 2306.11369): the student's stock data, schedule and optimizer (0.01 for every 16 images).
_base_ = ["mmdet::fcos/fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco.py"]
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _delete_=True,  # replaces the model of the base
    _scope_="mmrazor",
    type="CrossKD",
    architecture=dict(type="StockModel", cfg="mmdet::fcos/fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco.py"),
    teacher=dict(type="StockModel", cfg="mmdet::fcos/fcos_r101-caffe_fpn_gn-head_ms-640-800-2x_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/fcos/fcos_r101_caffe_fpn_gn-head_mstrain_640-800_2x_coco/"
    "fcos_r101_caffe_fpn_gn-head_mstrain_640-800_2x_coco-511424d6.pth",
    distiller=dict(type="ConfigurableDistiller"),
)
auto_scale_lr = dict(enable=True, base_batch_size=16)
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
