_base_ = [
    "../cankd/cankd_backbone_pspnet_r101_deeplabv3_r18_80k_cityscapes.py",
    "../../../_base_/methods/cwd_logits.py",
]

model = _base_.method
