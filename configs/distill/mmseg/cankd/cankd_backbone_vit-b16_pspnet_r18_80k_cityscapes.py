# The tokens of a classifier, laid out as a map, teach the backbone of a segmenter. The classifier cannot be validated.
_base_ = ["../../../_base_/segmentation_cityscapes.py", "../../../_base_/segmenter_backbone.py"]

model = dict(
    architecture=dict(cfg="mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py"),
    teacher=dict(cfg="mmpretrain::vision_transformer/vit-base-p16_64xb64_in1k-384px.py"),
    teacher_ckpt="https://download.openmmlab.com/mmclassification/v0/vit/finetune/"
    "vit-base-p16_in21k-pre-3rdparty_ft-64xb64_in1k-384_20210928-98e8652b.pth",
    teacher_preprocess=True,
    distiller=dict(
        teacher_source="backbone.ln1",
        loss=dict(align=True),
        teacher_connector=dict(type="TokensToMap", patch_size=16),
    ),
)
val_cfg = dict(type="ValLoop")
