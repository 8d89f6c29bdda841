from __future__ import annotations

import cv2
import numpy as np
import torch

from cankd.visualization import Boxes, draw_box_panel, draw_curves, draw_heatmap_panel, feature_energy


def test_energy_peaks_where_a_feature_was_planted():
    feature = torch.randn(16, 9, 12) * 0.1
    feature[:, 3, 7] = 5
    energy = feature_energy(feature)
    assert np.unravel_index(energy.argmax(), energy.shape) == (3, 7)


def test_boxes_are_drawn_where_they_are(tmp_path):
    image = np.full((60, 80, 3), 255, np.uint8)
    empty, one = Boxes(np.zeros((0, 4)), []), Boxes(np.array([[20, 20, 60, 50]]), ["3 0.90"])
    draw_box_panel([image], {"nothing": [empty], "one": [one]}, tmp_path / "boxes.png")
    drawn = cv2.imread(str(tmp_path / "boxes.png"))
    half = drawn.shape[1] // 2
    below_titles = drawn[drawn.shape[0] // 5 :]
    assert below_titles[:, :half].min() == 255 and below_titles[:, half:].min() < 255


def test_heatmaps_share_one_scale_and_curves_have_their_level(tmp_path):
    image = np.zeros((32, 32, 3), np.uint8)
    rows = {"low": [np.zeros((8, 8))], "high": [np.ones((8, 8))]}
    draw_heatmap_panel(image, rows, ["P3"], tmp_path / "maps.png")
    drawn = cv2.imread(str(tmp_path / "maps.png"))
    height, width = drawn.shape[:2]
    # viridis from dark blue to yellow: on one scale the two constant maps differ
    assert drawn[height * 3 // 10, width * 3 // 4].tolist() != drawn[height * 7 // 10, width * 3 // 4].tolist()
    draw_curves({"a": ([0, 1], [0, 5])}, ("epoch", "AP"), tmp_path / "curves.png", levels={"teacher": 7})
    assert cv2.imread(str(tmp_path / "curves.png")) is not None and not list(tmp_path.glob("*.part"))
