_base_ = ["./acamkd_fpn_reppoints_x101_reppoints_r50_2x_coco.py", "../../../_base_/dagger.py"]
