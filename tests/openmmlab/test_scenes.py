"""The generated scenes."""

from __future__ import annotations

import cv2
import numpy as np

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
