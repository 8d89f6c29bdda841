_base_ = ["../../../configs/vis/resnet_stages_feature_visualization.py"]
