_base_ = ["../cankd/cankd_fpn_mask-rcnn_swin-s_retinanet_r50_2x_coco.py", "../../../_base_/methods/pkd_fpn.py"]

# As mmrazor configures it for this pair; the loss resizes the student's maps by itself, and nothing is inherited.
model = _base_.method
custom_hooks = []
