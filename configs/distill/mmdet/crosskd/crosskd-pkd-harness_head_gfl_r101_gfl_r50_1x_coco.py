_base_ = ["../cankd/cankd_fpn_gfl_r101_gfl_r50_1x_coco.py", "../../../_base_/methods/pkd_fpn.py"]

model = dict(type="CrossKD", **_base_.method)
