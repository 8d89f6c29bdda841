# CWD as CanKD's authors configure it for this pair (arXiv 2011.13256). Nothing is inherited.
_base_ = ["../cankd/cankd_neck_dino_swin-l_dino_swin-b_12e_coco.py"]

model = dict(distiller=dict(loss=dict(_delete_=True, type="ChannelWiseDivergence", tau=1, loss_weight=10)))
custom_hooks = []
