from __future__ import annotations

import cv2
import numpy as np
import torch

from cankd.openmmlab.visualization import Boxes, draw_box_panel, draw_curves, draw_heatmap_panel, feature_energy


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


def _panel(tmp_path, sizes, corners, **options) -> np.ndarray:
    """A picture of black images with one box of class 3 in each."""
    boxes = [Boxes(np.array([corner]), ["3 0.90"], ["0.90"]) for corner in corners]
    images = [np.zeros((*size, 3), np.uint8) for size in sizes]
    draw_box_panel(images, {"model": boxes}, tmp_path / "panel.png", **options)
    return cv2.imread(str(tmp_path / "panel.png"))


def _frame(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of pixels that are of a black image for the most part."""
    black = picture.max(axis=2) < 10
    return np.nonzero(black.mean(axis=1) > 0.5)[0], np.nonzero(black.mean(axis=0) > 0.5)[0]


def test_masks_are_drawn_where_they_are(tmp_path):
    masks = np.zeros((1, 60, 80), bool)
    masks[0, 30:40, 40:60] = True
    boxes = Boxes(np.array([[40, 30, 60, 40]]), ["3 0.90"], masks=masks)
    draw_box_panel([np.zeros((60, 80, 3), np.uint8)], {"model": [boxes]}, tmp_path / "masks.png", labels="none")
    picture = cv2.imread(str(tmp_path / "masks.png"))
    rows, columns = _frame(picture)
    inside = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    ys, xs = np.nonzero(inside.max(axis=2) > 40)
    ends = [
        extreme / size
        for places, size in ((ys, len(rows)), (xs, len(columns)))
        for extreme in (places.min(), places.max())
    ]
    np.testing.assert_allclose(ends, [30 / 60, 40 / 60, 40 / 80, 60 / 80], atol=0.02)
    assert len(ys) > 0.9 * (len(rows) / 6) * (len(columns) / 4)


def test_no_bands_between_rows_of_any_shape_and_names_beside_them(tmp_path):
    sizes, corners = [(60, 80), (80, 60), (60, 80)], [(20, 20, 40, 40)] * 3
    rows, _ = _frame(_panel(tmp_path, sizes, corners))
    assert np.diff(rows).max() <= 12  # pixels, a tenth of an inch
    names = ["one.jpg", "two.jpg", "three.jpg"]
    picture = _panel(tmp_path, sizes, corners, names=names)
    rows, columns = _frame(picture)
    beside = (picture[:, : columns[0] - 2].min(axis=2) < 100).any(axis=1)
    for part in np.split(rows, np.nonzero(np.diff(rows) > 1)[0] + 1):
        assert 15 < beside[part].sum() < 0.6 * len(part)


def test_labels_lie_inside_the_frame_or_are_left_out(tmp_path):
    def written(corner, **options) -> int:
        """White pixels of text in the picture."""
        picture = _panel(tmp_path, [(60, 80)], [corner], **options)
        rows, columns = _frame(picture)
        inside = picture[rows[0] : rows[-1], columns[0] : columns[-1]]
        return int((inside.min(axis=2) > 200).sum())

    middle = written((30, 30, 45, 45))
    for corner in ((0, 0, 15, 15), (74, 30, 80, 45), (-3, 58, 9, 60)):
        assert abs(written(corner) - middle) < 0.3 * middle
    assert 0 < written((30, 30, 45, 45), labels="score") < 0.9 * middle
    assert written((30, 30, 45, 45), labels="none") == 0


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
