_base_ = ["../../../configs/vis/segmentation_feature_diff_visualization.py"]
