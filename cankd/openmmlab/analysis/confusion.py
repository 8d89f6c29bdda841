"""Computes confusion matrices of predictions that ``cankd test --out`` wrote."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import torch
from mmcv.ops import batched_nms
from mmdet.evaluation import bbox_overlaps

from cankd.openmmlab.compat import label_of

BACKGROUND = "background"


def load_predictions(path: str | Path) -> list[dict[str, Any]]:
    """Reads a file of predictions. Unpickling runs code that a file may carry: open only your own.

    Args:
        path: file that ``cankd test --out`` wrote.

    Returns:
        One dict for each image.

    Raises:
        OSError: if there is no such file.
        ValueError: if it holds something else.
    """
    try:
        with open(path, "rb") as file:
            predictions = pickle.load(file)
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError) as error:
        raise ValueError(f"{path}: cannot be read as a pickle. Give a file that `cankd test --out` wrote.") from error
    if not (isinstance(predictions, list) and predictions and all(isinstance(sample, dict) for sample in predictions)):
        raise ValueError(
            f"{path}: expected a list of one dict for each image. Give a file that `cankd test --out` wrote."
        )
    return predictions


def detection_confusion(
    truth: tuple[np.ndarray, np.ndarray, np.ndarray],
    detections: tuple[np.ndarray, np.ndarray],
    num_classes: int,
    iou_threshold: float,
) -> np.ndarray:
    """Counts one image as mmdet's tool does, so that the matrices of both can be compared.

    Every pair of an object and a detection that overlap enough counts once, at (object's class,
    detection's class). A detection that overlaps no object counts in the background's row, an
    object that no detection of its class overlaps in the background's column. Unlike in mmdet's tool,
    ignored objects (crowds) are not counted, nor are detections that overlap only them.

    Args:
        truth: boxes (G, 4), classes (G,) and whether each is ignored (G,).
        detections: boxes (D, 4), classes (D,).
        num_classes: number of classes without background.
        iou_threshold: least IoU of an overlap that is enough.

    Returns:
        Counts, (num_classes + 1, num_classes + 1), the background last.

    Raises:
        ValueError: for a detection of a class that does not exist.
    """
    (truth_boxes, truth_labels, ignored), (boxes, labels) = truth, detections
    _check_classes(labels, num_classes)
    matrix = np.zeros((num_classes + 1, num_classes + 1), int)
    overlaps = bbox_overlaps(boxes, truth_boxes) >= iou_threshold
    found, objects = np.nonzero(overlaps & ~ignored)
    np.add.at(matrix, (truth_labels[objects], labels[found]), 1)
    np.add.at(matrix, (num_classes, labels[~overlaps.any(axis=1)]), 1)
    hit = (overlaps & (labels[:, None] == truth_labels)).any(axis=0)
    np.add.at(matrix, (truth_labels[~hit & ~ignored], num_classes), 1)
    return matrix


def confusion_matrix(
    predictions: Sequence[dict[str, Any]],
    dataset: Any,
    score_threshold: float = 0.3,
    iou_threshold: float = 0.5,
    nms_threshold: float | None = None,
) -> np.ndarray:
    """Counts pairs of true and predicted class over a data set.

    Args:
        predictions: predictions of a detector, a segmenter or a classifier, one for each image of the data set.
        dataset: data set that was predicted.
        score_threshold: least score of a detection that is counted.
        iou_threshold: least IoU of a detection that matches an object.
        nms_threshold: IoU of another non-maximum suppression within each class; none by default.

    Returns:
        Counts, (truth, prediction): of objects with the background last, of pixels or of images.

    Raises:
        ValueError: if the predictions are of another data set or kind.
    """
    classes = len(dataset.metainfo["classes"])
    if len(predictions) != len(dataset):
        raise ValueError(
            f"predictions: got {len(predictions)}, expected {len(dataset)}, one for each image of the config's test "
            "data. Give the config that they were made with."
        )
    if "pred_instances" in predictions[0]:
        total = np.zeros((classes + 1, classes + 1), int)
        for index, sample in enumerate(predictions):
            info = dataset.get_data_info(index)
            if sample.get("img_id") != info["img_id"]:
                raise ValueError(
                    f"predictions: image {index} is {sample.get('img_id')!r}, the config's test data has "
                    f"{info['img_id']!r} there. Give the config that they were made with."
                )
            found = sample["pred_instances"]
            found = {key: found[key][found["scores"] >= score_threshold] for key in ("bboxes", "scores", "labels")}
            if nms_threshold is not None:
                cfg = dict(type="nms", iou_threshold=nms_threshold)
                _, kept = batched_nms(found["bboxes"], found["scores"], found["labels"], cfg)
                found = {key: value[kept] for key, value in found.items()}
            objects = info["instances"]
            truth = (
                np.array([thing["bbox"] for thing in objects], np.float32).reshape(-1, 4),
                np.array([thing["bbox_label"] for thing in objects], int),
                np.array([bool(thing.get("ignore_flag")) for thing in objects], bool),
            )
            detections = (found["bboxes"].numpy(), found["labels"].numpy())
            total += detection_confusion(truth, detections, classes, iou_threshold)
        return total
    pairs = (_pixels(sample) if "pred_sem_seg" in sample else _label(sample) for sample in predictions)
    return np.sum([_count(truth, predicted, classes) for truth, predicted in pairs], axis=0)


def _pixels(sample: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return sample["gt_sem_seg"]["data"].numpy().ravel(), sample["pred_sem_seg"]["data"].numpy().ravel()


def _label(sample: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns true and predicted label of a classifier."""
    given = [label_of(sample.get(key)) for key in ("gt_label", "pred_label")]
    labels = [label.numpy().ravel() for label in given if isinstance(label, torch.Tensor)]
    if len(labels) < 2:
        raise ValueError(
            f"predictions: got {', '.join(sample)}, expected pred_instances (detection), pred_sem_seg (segmentation) "
            "or pred_label (classification) with the truth. Give a file that `cankd test --out` wrote."
        )
    return labels[0], labels[1]


def _count(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts pairs of true and predicted class; a truth that is no class (255, to be ignored) is left out."""
    known = (truth >= 0) & (truth < classes)
    _check_classes(predicted[known], classes)
    pairs = truth[known].astype(int) * classes + predicted[known]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def _check_classes(predicted: np.ndarray, classes: int) -> None:
    """Refuses predictions of a class that the data set does not have, for which there is no cell."""
    beyond = predicted[(predicted < 0) | (predicted >= classes)]
    if beyond.size:
        raise ValueError(
            f"predictions: got class {beyond[0]}, expected 0 to {classes - 1}, the classes of the config's test data. "
            "Give the config that they were made with."
        )


def row_percentages(matrix: np.ndarray) -> np.ndarray:
    """Returns each row in percent of its sum; nan in rows without a count."""
    sums = matrix.sum(axis=1, keepdims=True)
    return np.divide(100.0 * matrix, sums, out=np.full(matrix.shape, np.nan), where=sums > 0)
