_base_ = ["../../../configs/vis/fpn_feature_visualization.py"]
