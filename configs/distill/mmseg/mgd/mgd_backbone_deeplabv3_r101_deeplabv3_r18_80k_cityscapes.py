_base_ = [
    "../cankd/cankd_backbone_deeplabv3_r101_deeplabv3_r18_80k_cityscapes.py",
    "../../../_base_/methods/mgd_backbone.py",
]

model = _base_.method
