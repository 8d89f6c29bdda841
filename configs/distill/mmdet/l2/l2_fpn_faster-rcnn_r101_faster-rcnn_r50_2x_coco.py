_base_ = ["../cankd/cankd_fpn_faster-rcnn_r101_faster-rcnn_r50_2x_coco.py", "../../../_base_/methods/l2_fpn.py"]

model = _base_.method
