"""The ground truth that pictures show."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from cankd.openmmlab.configs import read_config
from cankd.openmmlab.visualization import Boxes
from cankd.openmmlab.visualization.ground_truth import ground_truth
from tests.demo import STUDENT


def test_the_ground_truth_is_the_annotations(mini_data, segmenter):
    annotations = json.loads((mini_data / "annotations/val.json").read_text())
    options = {"test_dataloader.dataset.data_root": f"{mini_data}/"}
    image = annotations["images"][2]
    (boxes,) = ground_truth(read_config(STUDENT, options), [Path("elsewhere") / image["file_name"]])
    own = [a for a in annotations["annotations"] if a["image_id"] == image["id"]]
    assert isinstance(boxes, Boxes) and len(boxes.corners) == len(own) > 0
    x, y, width, height = own[0]["bbox"]
    assert boxes.corners[0].tolist() == [x, y, x + width, y + height]
    assert boxes.captions[0] == annotations["categories"][own[0]["category_id"] - 1]["name"]

    config, _, street = segmenter
    (labels,) = ground_truth(read_config(config), [street])
    assert not isinstance(labels, Boxes)
    assert np.array_equal(labels, cv2.imread(str(street.parents[1] / "labels/street.png"), cv2.IMREAD_UNCHANGED))
    with pytest.raises(ValueError, match=r"absent.png is not in the test data set .*\(1 images\)"):
        ground_truth(read_config(config), [Path("absent.png")])
