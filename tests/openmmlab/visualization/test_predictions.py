"""Pictures of predictions."""

from __future__ import annotations

import numpy as np
import pytest

from cankd.openmmlab.inference import predict
from cankd.openmmlab.loading import load_model
from cankd.openmmlab.visualization import draw_label_panel
from cankd.openmmlab.visualization.features import (
    predicted_boxes,
)
from tests.demo import CANKD, TEACHER, TEACHER_CKPT
from tests.in_process import call_tool
from tests.openmmlab.visualization.shared import pixels, where


def test_shown_boxes_are_the_confident_ones(scene):
    model, cfg = load_model(TEACHER, TEACHER_CKPT)
    sample = predict(model, cfg, scene)
    boxes = predicted_boxes(sample, model.dataset_meta["classes"], 0.5)
    scores = sample.pred_instances.scores
    assert 0 < len(boxes.captions) == int((scores >= 0.5).sum()) < len(scores)
    first = sample.pred_instances[0]
    assert boxes.captions[0] == f"{first.labels.item()} {first.scores.item():.2f}"
    assert np.array_equal(boxes.corners[0], first.bboxes[0].numpy())


def test_label_maps_are_drawn_in_their_colours(tmp_path):
    labels = np.full((40, 40), 255)
    labels[:20, :20], labels[20:, 20:] = 0, 1
    palette = [[255, 0, 0], [0, 0, 255]]
    image = np.full((40, 40, 3), 255, np.uint8)
    draw_label_panel([image], {"model": [labels]}, ["sky", "road"], palette, tmp_path / "labels.png", alpha=1.0)
    picture = pixels(tmp_path / "labels.png")
    half = picture.shape[1] // 2
    picture = picture[: picture.shape[0] * 9 // 10]  # without the legend
    (red_rows, red_columns), (blue_rows, blue_columns) = (where(picture, color) for color in palette)
    assert min(red_columns.min(), blue_columns.min()) > half
    assert red_rows.max() < blue_rows.min() and red_columns.max() < blue_columns.min()
    assert abs(len(red_rows) / len(blue_rows) - 1) < 0.05  # 255 has no colour: a quarter of the area each


@pytest.mark.slow
def test_predictions_of_several_checkpoints_stand_beside_the_ground_truth(distilled, mini_data, segmenter, tmp_path):
    images = sorted((mini_data / "val").iterdir())[:3]
    models = ["--model", "student", CANKD, distilled, "--teacher", "teacher", CANKD, distilled]
    data = ["--cfg-options", f"test_dataloader.dataset.data_root={mini_data}/"]
    call_tool(
        "visualizations/predictions.py", *images, *models, "--ground-truth", "--rows", 2,
        "--out-file", tmp_path / "boxes.png", *data,
    )  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boxes_predictions_1.png", "boxes_predictions_2.png"]
    two, one = (pixels(path) for path in sorted(tmp_path.iterdir()))
    assert two.shape[0] > 1.5 * one.shape[0] and two.shape[1] == one.shape[1]

    config, checkpoint, street = segmenter
    out = tmp_path / "labels.png"
    call_tool(
        "visualizations/predictions.py", street, "--model", "random", config, checkpoint, "--ground-truth",
        "--alpha", 1, "--out-file", out,
    )  # fmt: skip
    # the ground truth's lower half is green and blue, the first column is the image itself
    picture = pixels(out)
    third = picture.shape[1] // 3
    truth = picture[: picture.shape[0] * 7 // 10, third : 2 * third]
    (green_rows, green_columns), (blue_rows, blue_columns) = (where(truth, c) for c in ((0, 255, 0), (0, 0, 255)))
    assert len(green_rows) > 1000 and len(blue_rows) > 1000 and green_columns.max() < blue_columns.min()
