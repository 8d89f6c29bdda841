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
    """Runs some steps of a test pipeline, and returns a batch of one image."""
    if test_dataset(cfg).get("return_classes"):  # detectors that are told what to look for
        results.update(text=tuple(dataset_meta(cfg)["classes"]), custom_entities=True)
    with in_scope(cfg):
        return pseudo_collate([Compose(steps)(results)])


def _test_pipeline(cfg: Config) -> list[dict]:
    """Returns the steps of the test pipeline, without those that load annotations."""
    steps = test_dataset(cfg).get("pipeline") or cfg.get("test_pipeline")
    if not steps:
        raise ValueError(
            f"config: {cfg.filename} has no test_dataloader.dataset.pipeline and no test_pipeline. Add it."
        )
    return [step for step in steps if "Annotations" not in str(step["type"])]


def prepare(cfg: Config, image: str | Path) -> dict[str, list]:
    """Runs the configuration's test pipeline on one image file.

    Args:
        cfg: configuration of the model.
        image: image file.

    Returns:
        A batch for the model's ``data_preprocessor`` and ``test_step``: ``inputs``, a list of one
        (C, H, W) tensor, and ``data_samples``, a list of one.

    Raises:
        ValueError: if the configuration has no test pipeline.
    """
    return _run_pipeline(cfg, _test_pipeline(cfg), {"img_path": str(image), "img_id": 0})


def noise_batch(cfg: Config, shape: Sequence[int]) -> dict[str, list]:
    """Returns a batch of one image of noise, of any size, as :func:`prepare` does for a file.

    Args:
        cfg: configuration of the model.
        shape: height and width of the image.

    Returns:
        A batch, as of :func:`prepare`.
    """
    height, width = shape
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    results = {"img": image, "img_path": "", "img_id": 0, "scale_factor": (1.0, 1.0), "flip": False}
    results.update(img_shape=(height, width), ori_shape=(height, width))
    return _run_pipeline(cfg, _test_pipeline(cfg)[-1:], results)


@torch.no_grad()
def predict(model: BaseModel, cfg: Config, image: str | Path) -> Any:
    """Predicts for one image file.

    Args:
        model: model from :func:`cankd.openmmlab.loading.load_model`.
        cfg: configuration of the model.
        image: image file.

    Returns:
        The data sample of the model's library: ``DetDataSample``, ``SegDataSample`` or ``DataSample``; boxes and
        label maps are in pixels of the file.
    """
    return model.test_step(prepare(cfg, image))[0]
