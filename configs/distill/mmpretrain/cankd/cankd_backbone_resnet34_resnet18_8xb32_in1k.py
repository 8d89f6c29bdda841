_base_ = ["../../../_base_/classification_imagenet.py"]

model = dict(
    architecture=dict(cfg="mmpretrain::resnet/resnet18_8xb32_in1k.py"),
    teacher=dict(cfg="mmpretrain::resnet/resnet34_8xb32_in1k.py"),
    teacher_ckpt="https://download.openmmlab.com/mmclassification/v0/resnet/resnet34_8xb32_in1k_20210831-f257d4e6.pth",
)
