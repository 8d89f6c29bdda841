_base_ = ["../../../configs/vis/backbone_feature_diff_visualization.py"]
