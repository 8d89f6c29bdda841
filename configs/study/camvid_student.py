# CamVid's student, trained alone: a narrow PSPNet on half-size images of driving scenes (docs/study.md).
_base_ = ["./camvid_data.py"]

norm = dict(type="BN", requires_grad=True)
model = dict(
    type="mmrazor.StockModel",
    cfg="mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py",
    num_classes=11,
    data_preprocessor=dict(size=(128, 128)),
    pretrained=None,
    backbone=dict(base_channels=16, norm_cfg=norm),
    decode_head=dict(in_channels=128, channels=64, norm_cfg=norm),
    auxiliary_head=dict(in_channels=64, channels=32, norm_cfg=norm),
)
