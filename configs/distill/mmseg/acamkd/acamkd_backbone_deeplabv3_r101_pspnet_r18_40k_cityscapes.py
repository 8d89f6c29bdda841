_base_ = ["./acamkd_backbone_deeplabv3_r101_deeplabv3_r18_40k_cityscapes.py"]

model = dict(architecture=dict(cfg="mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py"))
