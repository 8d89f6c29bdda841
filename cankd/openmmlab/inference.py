"""Runs a model on single images: its configuration's test pipeline, noise of any size, predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import BaseModel

from cankd.openmmlab.configs import dataset_meta, in_scope, test_dataset


def _run_pipeline(cfg: Config, steps: Sequence[dict], results: dict[str, Any]) -> dict[str, list]:
    """A batch of one from some steps of a test pipeline."""
    if test_dataset(cfg).get("return_classes"):  # detectors that are told what to look for
        results.update(text=tuple(dataset_meta(cfg)["classes"]), custom_entities=True)
    with in_scope(cfg):
        return pseudo_collate([Compose(steps)(results)])


def _test_pipeline(cfg: Config) -> list[dict]:
    """The steps of the test pipeline, without annotations."""
    steps = test_dataset(cfg).get("pipeline") or cfg.get("test_pipeline")
    if not steps:
        raise ValueError(
            f"config: {cfg.filename} has no test_dataloader.dataset.pipeline and no test_pipeline. Add it."
        )
    return [step for step in steps if "Annotations" not in str(step["type"])]


def prepare(cfg: Config, image: str | Path) -> dict[str, list]:
    """Runs the configuration's test pipeline on one image file.

    Args:
        cfg: the model's configuration.
        image: an image file.

    Returns:
        What the model's ``data_preprocessor`` and ``test_step`` take: ``inputs``, a list of one
        (C, H, W) tensor, and ``data_samples``, a list of one.

    Raises:
        ValueError: if the configuration has no test pipeline.
    """
    return _run_pipeline(cfg, _test_pipeline(cfg), {"img_path": str(image), "img_id": 0})


def noise_batch(cfg: Config, shape: Sequence[int]) -> dict[str, list]:
    """An image of noise as :func:`prepare` would return it, at a size of one's own.

    Args:
        cfg: the model's configuration.
        shape: (H, W).

    Returns:
        As :func:`prepare`.
    """
    height, width = shape
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    results = {"img": image, "img_path": "", "img_id": 0, "scale_factor": (1.0, 1.0), "flip": False}
    results.update(img_shape=(height, width), ori_shape=(height, width))
    return _run_pipeline(cfg, _test_pipeline(cfg)[-1:], results)


@torch.no_grad()
def predict(model: BaseModel, cfg: Config, image: str | Path) -> Any:
    """What a model predicts for one image file, in the data sample of its library.

    Args:
        model: from :func:`load_model`.
        cfg: its configuration.
        image: an image file.

    Returns:
        ``DetDataSample``, ``SegDataSample`` or ``DataSample``; boxes and label maps are in the
        pixels of the file.
    """
    return model.test_step(prepare(cfg, image))[0]
