# CWD as CanKD's authors configure it for DINO (arXiv 2011.13256). Nothing is inherited.
_base_ = ["../cankd/cankd_neck_dino_r101_dino_r50_12e_coco.py"]

model = dict(distiller=dict(loss=dict(_delete_=True, type="ChannelWiseDivergence", tau=1, loss_weight=10)))
custom_hooks = []
