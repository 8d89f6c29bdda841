"""Draws what detectors and segmenters predict for images, beside the ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, Sequence

import mmcv
import numpy as np

from cankd.openmmlab.visualization.features import predicted_boxes
from cankd.openmmlab.visualization.panels import LABELS, Boxes, draw_box_panel, draw_label_panel

TRUTH = "ground truth"


def drawn_prediction(sample: Any, classes: Sequence[str], score_thr: float) -> Boxes | np.ndarray:
    """Returns a detector's boxes, with their masks if it predicts any, or a segmenter's label map (H, W).

    Args:
        sample: data sample that the model returned.
        classes: names of the classes.
        score_thr: least score of a box.

    Raises:
        ValueError: if the model predicts neither.
    """
    if "pred_sem_seg" in sample:
        return sample.pred_sem_seg.data[0].cpu().numpy()
    return predicted_boxes(sample, classes, score_thr)


def draw_predictions(
    images: Sequence[Path],
    truths: Sequence[Any],
    columns: Mapping[str, Sequence[Any]],
    meta: Mapping[str, Any],
    path: Path,
    labels: str = LABELS[0],
    alpha: float = 0.6,
) -> None:
    """Draws images as rows and models as columns, after a column with the annotations if they are given.

    Args:
        images: image files.
        truths: annotations of each image, from :func:`~cankd.openmmlab.visualization.ground_truth.ground_truth`, or
            none. Masks are drawn only beside models that predict masks.
        columns: title -> the prediction for each image, from :func:`drawn_prediction`.
        meta: ``classes`` and ``palette`` of the data set.
        path: picture to write.
        labels: text at boxes; see :func:`~cankd.openmmlab.visualization.draw_box_panel`.
        alpha: opacity of label maps. Defaults to 0.6.

    Raises:
        ValueError: if some models predict boxes, and others label maps.
    """
    kinds = {type(found) for column in [*columns.values(), truths] for found in column}
    if len(kinds) > 1:
        raise ValueError("got detectors and segmenters, expected models of one kind.")
    pictures = [mmcv.imread(str(image), channel_order="rgb") for image in images]
    names = [image.name for image in images]
    first = next(iter(columns.values()))
    shown = {TRUTH: truths, **columns} if truths else columns
    if kinds != {Boxes}:
        draw_label_panel(pictures, shown, meta["classes"], meta.get("palette"), path, alpha, names)
        return
    if truths and all(found.masks is None for found in first):
        shown = {**shown, TRUTH: [truth._replace(masks=None) for truth in truths]}
    draw_box_panel(pictures, shown, path, names, labels)
