_base_ = ["../cankd/cankd_fpn_retinanet_r101_retinanet_r50_2x_coco.py", "../../../_base_/methods/acamkd_fpn.py"]

model = _base_.method
