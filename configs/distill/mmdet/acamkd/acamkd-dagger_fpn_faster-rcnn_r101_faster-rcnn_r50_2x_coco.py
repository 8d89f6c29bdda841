_base_ = ["./acamkd_fpn_faster-rcnn_r101_faster-rcnn_r50_2x_coco.py", "../../../_base_/dagger.py"]
