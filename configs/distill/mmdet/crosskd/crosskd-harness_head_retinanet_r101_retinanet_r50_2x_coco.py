_base_ = ["../cankd/cankd_fpn_retinanet_r101_retinanet_r50_2x_coco.py", "../../../_base_/methods/crosskd.py"]

model = _base_.method
