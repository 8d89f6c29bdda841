_base_ = ["../../../_base_/segmentation_cityscapes.py", "../../../_base_/segmenter_backbone.py"]

model = dict(
    architecture=dict(cfg="mmseg::mobilenet_v2/mobilenet-v2-d8_deeplabv3_4xb2-80k_cityscapes-512x1024.py"),
    teacher=dict(cfg="mmseg::deeplabv3/deeplabv3_r101-d8_4xb2-80k_cityscapes-512x1024.py"),
    teacher_ckpt="https://download.openmmlab.com/mmsegmentation/v0.5/deeplabv3/deeplabv3_r101-d8_512x1024_80k_cityscapes/"
    "deeplabv3_r101-d8_512x1024_80k_cityscapes_20200606_113503-9e428899.pth",
)
