_base_ = ["./acamkd_fpn_retinanet_r101_retinanet_r50_2x_coco.py", "../../../_base_/dagger.py"]
