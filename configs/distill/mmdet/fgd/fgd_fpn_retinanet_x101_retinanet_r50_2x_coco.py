_base_ = ["../cankd/cankd_fpn_retinanet_x101_retinanet_r50_2x_coco.py", "../../../_base_/methods/fgd_fpn.py"]

model = _base_.method
