"""Reads annotations of single images from the test data set of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Sequence

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS

from cankd.openmmlab.configs import in_scope, test_dataset
from cankd.openmmlab.visualization.panels import Boxes


def ground_truth(cfg: Config, images: Sequence[Path]) -> list[Boxes | np.ndarray]:
    """Looks images up in the configuration's test data set, by the names of their files.

    Args:
        cfg: configuration of a detector or a segmenter, with a ``test_dataloader``.
        images: image files.

    Returns:
        For each image its boxes captioned with their class and, where they are annotated, the masks of the objects; or
        its label map (H, W).

    Raises:
        ValueError: if an image is not in the data set, or the data set has neither boxes nor label maps.
    """
    settings = test_dataset(cfg)
    if not settings:
        raise ValueError(f"config: {cfg.filename} has no test_dataloader.dataset, where annotations are looked up.")
    with in_scope(cfg):
        dataset = DATASETS.build(settings)
        loading = [step for step in settings.get("pipeline", []) if "Annotations" in str(step["type"])]
        load = TRANSFORMS.build(loading[0] if loading else {"type": "LoadAnnotations"})
    found = {Path(info["img_path"]).name: info for info in map(dataset.get_data_info, range(len(dataset)))}
    truths: list[Boxes | np.ndarray] = []
    for image in images:
        info = found.get(image.name)
        if info is None:
            raise ValueError(
                f"image: {image.name} is not in the test data set of {cfg.filename} ({len(found)} images). Correct "
                "test_dataloader.dataset with --cfg-options, or leave --ground-truth out."
            )
        if "instances" in info:
            boxes = [instance for instance in info["instances"] if not instance.get("ignore_flag")]
            corners = np.array([instance["bbox"] for instance in boxes], dtype=float).reshape(-1, 4)
            captions = [dataset.metainfo["classes"][box["bbox_label"]] for box in boxes]
            truths.append(Boxes(corners, captions, masks=_masks(info, boxes)))
        elif "seg_map_path" in info:
            truths.append(load(info)["gt_seg_map"])
        else:
            raise ValueError(f"the test data set of {cfg.filename} has neither boxes nor label maps.")
    return truths


def _masks(info: dict[str, Any], boxes: list[dict[str, Any]]) -> np.ndarray | None:
    """Returns the masks (N, H, W) of an image's objects, or None where they are not annotated."""
    if not boxes or not all("mask" in instance for instance in boxes):
        return None
    from mmdet.datasets.transforms import LoadAnnotations  # here, because segmenters need no mmdet

    load = LoadAnnotations(with_bbox=False, with_label=False, with_mask=True)
    return load({**info, "instances": boxes, "ori_shape": (info["height"], info["width"])})["gt_masks"].masks
