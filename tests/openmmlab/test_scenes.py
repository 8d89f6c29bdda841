"""The generated scenes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cankd.openmmlab.datasets import digit_images
from cankd.openmmlab.scenes import SIZE, draw_scene
from tests.in_process import call_tool


def test_gallery_labels_cover_the_digits(tmp_path):
    out = tmp_path / "gallery"
    call_tool("dataset_tools/make_gallery_data.py", "--out", out, "--train", 2, "--val", 3)
    for number in range(3):
        scene, labels = (cv2.imread(str(out / f"val/{kind}/{number:05d}.png")) for kind in ("images", "labels"))
        cuts = [cv2.imread(str(path)) for path in (out / "val/digits").glob(f"*/{number:05d}_*.png")]
        assert set(np.unique(labels)) == {0, 1} and 1 <= len(cuts) <= 5
        covered = np.zeros_like(labels)
        for cut in cuts:
            _, _, (left, top), _ = cv2.minMaxLoc(cv2.matchTemplate(scene, cut, cv2.TM_SQDIFF))
            covered[top : top + cut.shape[0], left : left + cut.shape[1]] = 1
        assert labels[covered == 1].mean() > 0.2 and not labels[covered == 0].any()


@pytest.mark.parametrize("scale", [1, 3.5])
def test_outlines_follow_the_digits(scale):
    digits, labels = digit_images()["val"]
    for number in range(20):
        # Where black and white photographs show the same, a digit covers them.
        black, white = (
            draw_scene([np.full((SIZE, SIZE, 3), value, np.uint8)], digits, labels, np.random.default_rng(number))
            for value in (0, 255)
        )
        covered = (white[0].astype(int) - black[0]).mean(axis=2) < 255 * 0.7
        filled = np.zeros((round(SIZE * scale),) * 2, np.uint8)
        for digit in black[1]:
            x, y, width, height = digit.enlarged(scale, scale).box
            for outline in digit.enlarged(scale, scale).outlines:
                points = np.reshape(outline, (-1, 2))
                assert (points >= (x - 1, y - 1)).all() and (points <= (x + width + 1, y + height + 1)).all()
                cv2.fillPoly(filled, [(points - 0.5).round().astype(int)], 1)
        covered = cv2.resize(covered.astype(np.uint8), filled.shape, interpolation=cv2.INTER_NEAREST)
        assert filled[covered == 1].mean() > 0.95  # the outlines fill the holes of 0, 6, 8 and 9
        assert (filled[covered == 0]).sum() < 0.35 * covered.sum()
