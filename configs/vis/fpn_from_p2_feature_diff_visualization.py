"""The same for necks that start at stride 4."""

_base_ = ["./fpn_from_p2_feature_visualization.py"]

recorders1 = {{_base_.recorders}}
recorders2 = {{_base_.recorders}}
mappings1 = {{_base_.mappings}}
mappings2 = {{_base_.mappings}}
