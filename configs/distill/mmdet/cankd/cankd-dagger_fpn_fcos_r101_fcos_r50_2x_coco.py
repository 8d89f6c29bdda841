_base_ = ["./cankd_fpn_fcos_r101_fcos_r50_2x_coco.py", "../../../_base_/dagger.py"]
