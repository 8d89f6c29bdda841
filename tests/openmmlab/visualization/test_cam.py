"""Grad-CAM."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch.nn.functional as F

from cankd.openmmlab.inference import prepare
from cankd.openmmlab.loading import load_model
from cankd.openmmlab.visualization.cam import backbone_stages, grad_cam
from cankd.openmmlab.visualization.features import (
    FeatureRecorder,
)
from tests.in_process import call_tool
from tests.openmmlab.visualization.shared import pixels, refused


def test_grad_cam_is_its_formula_where_that_is_known(classifier, scene):
    model, cfg = load_model(*classifier)
    data = model.data_preprocessor(prepare(cfg, scene), False)
    layers = backbone_stages(model, data)
    assert layers == [f"backbone.layer{i}" for i in (1, 2, 3, 4)]
    (found,) = grad_cam(model, data, ["backbone.layer4"], category=3)
    # Behind layer 4 come only a mean over positions and a linear layer, so the gradient is its weight.
    recorders = dict(last=dict(type="ModuleOutputs", source="backbone.layer4"))
    feature = FeatureRecorder(model, cfg, recorders, dict(last=dict(recorder="last")))(scene).maps["last"]
    weight = model.get_parameter("head.fc.weight")[3].detach()
    expected = F.relu((weight[:, None, None] * feature).sum(0)).numpy()
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    assert expected.std() > 0.1
    assert np.abs(found - cv2.resize(expected, (96, 96))).max() < 1e-3


@pytest.mark.slow
def test_grad_cam_shows_frozen_stages_of_several_classifiers(classifier, scene, tmp_path):
    models = ["--model", "one", *classifier, "--model", "two", *classifier]
    call_tool("visualizations/grad_cam.py", scene, *models, "--out-file", tmp_path / "cam.png")
    call_tool("visualizations/grad_cam.py", scene, *models[:4], "--out-file", tmp_path / "one.png")
    both, one = (pixels(tmp_path / name) for name in ("cam.png", "one.png"))
    assert both.shape[0] > 1.5 * one.shape[0] and both.shape[1] == one.shape[1]
    # stage 1 is frozen; its map has both ends of the scale
    model, cfg = load_model(*classifier)
    data = model.data_preprocessor(prepare(cfg, scene), False)
    (first,) = grad_cam(model, data, ["backbone.layer1"], category=0)
    assert first.min() < 0.05 and first.max() > 0.95
    message = refused("grad_cam", scene, *models, "--category", 5)
    assert "--category: got 5, expected 0 to 4" in message
    message = refused("grad_cam", scene, *models, "--target-layers", "backbone.layer9")
    assert "backbone.layer9" in message and "backbone.layer4" in message
