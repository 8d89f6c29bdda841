_base_ = ["./acamkd_backbone_deeplabv3_r101_deeplabv3_r18_40k_cityscapes.py"]

model = dict(
    architecture=dict(cfg="mmseg::mobilenet_v2/mobilenet-v2-d8_deeplabv3_4xb2-80k_cityscapes-512x1024.py"),
    distiller=dict(
        student_recorders=dict(backbone=dict(source="backbone.layer7")),
        connectors=dict(backbone=dict(in_channel=320)),
    ),
)
