"""Fixtures of the tests of analyses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cankd.openmmlab.models import stock_model


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory, run_tool) -> tuple[Path, Path]:
    """Configuration and checkpoint of a small PSPNet with random weights on four Cityscapes-like images."""
    folder = tmp_path_factory.mktemp("segmenter")
    data = folder / "data"
    run_tool("dataset_tools/make_mini.py", "--layout", "cityscapes", "--out", data, "--train", 1, "--val", 2)
    config = folder / "pspnet.py"
    config.write_text(
        "_base_ = ['mmseg::_base_/datasets/cityscapes.py', 'mmseg::_base_/default_runtime.py']\n"
        "pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(128, 64)),\n"
        "            dict(type='LoadAnnotations'), dict(type='PackSegInputs')]\n"
        "test_dataloader = dict(num_workers=0, persistent_workers=False,\n"
        f"                       dataset=dict(data_root='{data}', pipeline=pipeline))\n"
        "test_cfg = dict(type='TestLoop')\n"
        "train_dataloader = val_dataloader = val_evaluator = None\n"
        "model = dict(type='mmrazor.StockModel', cfg='mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',\n"
        "             backbone=dict(init_cfg=None, base_channels=8), pretrained=None,\n"
        "             decode_head=dict(in_channels=64, channels=16), auxiliary_head=dict(in_channels=32, channels=8))\n"
    )
    torch.manual_seed(3)
    model = stock_model(str(config))
    model.init_weights()
    torch.save({"state_dict": model.state_dict()}, folder / "pspnet.pth")
    return config, folder / "pspnet.pth"
