"""Helpers of the tests of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import cv2
import numpy as np
import torch

from cankd.openmmlab.configs import read_config
from cankd.openmmlab.loading import build_model
from tests.conftest import ROOT
from tests.in_process import call_tool

VIS = ROOT / "configs/vis"
FPN = VIS / "fpn_from_p2_feature_visualization.py"
NECK = dict(neck=dict(type="ModuleOutputs", source="neck"))
P2 = dict(p2=dict(recorder="neck", data_idx=0))
SEGMENTER = """
_base_ = ["mmseg::_base_/default_runtime.py"]
custom_imports = dict(imports=["cankd.openmmlab"])
model = dict(
    type="mmrazor.StockModel", cfg="mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py",
    backbone=dict(base_channels=8), decode_head=dict(in_channels=64, channels=16, num_classes=3),
    auxiliary_head=dict(in_channels=32, channels=16, num_classes=3))
pipeline = [dict(type="LoadImageFromFile"), dict(type="Resize", scale=(128, 128), keep_ratio=True),
            dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
test_dataloader = dict(dataset=dict(
    type="BaseSegDataset", data_root="{data}", data_prefix=dict(img_path="images", seg_map_path="labels"),
    img_suffix=".png", metainfo=dict(classes=("sky", "road", "car"), palette=[[255, 0, 0], [0, 255, 0], [0, 0, 255]]),
    test_mode=True, pipeline=pipeline))
"""


SEGMENTATION = """
_base_ = ["{root}/configs/_base_/segmentation_cityscapes.py", "{root}/configs/_base_/segmenter_backbone.py"]
def sizes(base):
    head = dict(channels=16, num_classes=3)
    return dict(cfg="mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py", backbone=dict(base_channels=base),
                decode_head=dict(in_channels=8 * base, **head), auxiliary_head=dict(in_channels=4 * base, **head))
model = dict(architecture=sizes(8), teacher=sizes(16), teacher_ckpt=None, distiller=dict(
    connectors=dict(backbone=dict(in_channel=64, out_channel=128)),
    distill_losses=dict(loss_backbone=dict(in_channels=128))))
sizes = None
pipeline = [dict(type="LoadImageFromFile"), dict(type="Resize", scale=(128, 128), keep_ratio=True),
            dict(type="PackSegInputs")]
test_dataloader = dict(dataset=dict(pipeline=pipeline))
"""


CLASSIFIER = """
_base_ = ["mmpretrain::_base_/default_runtime.py"]
custom_imports = dict(imports=["cankd.openmmlab"])
model = dict(
    type="mmrazor.StockModel", cfg="mmpretrain::resnet/resnet18_8xb32_in1k.py",
    backbone=dict(base_channels=8, frozen_stages=1), head=dict(in_channels=64, num_classes=5, topk=(1,)))
pipeline = [dict(type="LoadImageFromFile"), dict(type="Resize", scale=96), dict(type="{pack}")]
test_dataloader = dict(dataset=dict(type="CustomDataset", data_root="", pipeline=pipeline))
"""


def random_checkpoint(config: Path) -> Path:
    torch.manual_seed(1)
    model = build_model(read_config(config))
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    file = config.with_suffix(".pth")
    torch.save({"state_dict": model.state_dict()}, file)
    return file


def refused(tool: str, *arguments) -> str:
    """The single line with which a tool refuses its input."""
    done = call_tool(f"visualizations/{tool}.py", *arguments, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stdout, done.stdout
    return done.stdout.strip().splitlines()[-1]


def pixels(file: Path) -> np.ndarray:
    return cv2.imread(str(file))[..., ::-1].astype(int)


def where(picture: np.ndarray, color: Sequence[int], near: int = 12) -> tuple[np.ndarray, ...]:
    """Rows and columns of the pixels of a colour."""
    return np.nonzero((np.abs(picture - color) <= near).all(axis=2))
