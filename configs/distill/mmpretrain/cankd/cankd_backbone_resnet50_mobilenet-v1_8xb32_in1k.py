# A 1x1 convolution maps MobileNetV1's 1024 channels to ResNet-50's 2048.
_base_ = ["../../../_base_/classification_imagenet.py"]

model = dict(
    architecture=dict(
        cfg="mmpretrain::resnet/resnet18_8xb32_in1k.py",
        backbone=dict(_replace_=True, type="mmrazor.MobileNetV1"),
        head=dict(in_channels=1024),
    ),
    teacher=dict(cfg="mmpretrain::resnet/resnet50_8xb32_in1k.py"),
    teacher_ckpt="https://download.openmmlab.com/mmclassification/v0/resnet/resnet50_8xb32_in1k_20210831-ea4938fc.pth",
    distiller=dict(student_source="backbone.stages.4"),
)
