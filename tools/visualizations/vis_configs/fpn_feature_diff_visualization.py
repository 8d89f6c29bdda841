_base_ = ["../../../configs/vis/fpn_feature_diff_visualization.py"]
