_base_ = ["../cankd/cankd_fpn_reppoints_x101_reppoints_r50_2x_coco.py", "../../../_base_/methods/acamkd_fpn.py"]

model = _base_.method
