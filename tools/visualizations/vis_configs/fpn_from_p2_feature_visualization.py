_base_ = ["../../../configs/vis/fpn_from_p2_feature_visualization.py"]
