_base_ = ["../../../configs/vis/backbone_feature_visualization.py"]
