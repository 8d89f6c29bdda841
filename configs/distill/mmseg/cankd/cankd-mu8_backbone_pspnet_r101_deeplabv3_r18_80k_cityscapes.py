_base_ = ["./cankd_backbone_pspnet_r101_deeplabv3_r18_80k_cityscapes.py"]

model = dict(distiller=dict(distill_losses=dict(loss_backbone=dict(loss_weight=16))))
