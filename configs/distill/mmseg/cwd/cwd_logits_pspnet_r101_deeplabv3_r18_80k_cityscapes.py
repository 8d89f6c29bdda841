_base_ = ["../../../_base_/segmentation_cityscapes.py", "../../../_base_/methods/cwd_logits.py"]

model = dict(
    architecture=dict(cfg="mmseg::deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py"),
    teacher=dict(cfg="mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py"),
    teacher_ckpt="https://download.openmmlab.com/mmsegmentation/v0.5/pspnet/pspnet_r101-d8_512x1024_80k_cityscapes/"
    "pspnet_r101-d8_512x1024_80k_cityscapes_20200606_112211-e1e1100f.pth",
)
