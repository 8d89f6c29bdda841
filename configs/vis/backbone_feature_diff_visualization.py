"""The maps of two models' backbones, level by level."""

_base_ = ["./backbone_feature_visualization.py"]

recorders1 = {{_base_.recorders}}
recorders2 = {{_base_.recorders}}
mappings1 = {{_base_.mappings}}
mappings2 = {{_base_.mappings}}
