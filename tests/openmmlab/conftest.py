"""Models and images that the tests of loading and of pictures share."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmrazor.registry import MODELS

from cankd.openmmlab.compat import CLASSIFICATION
from cankd.openmmlab.configs import in_scope, read_config
from tests.conftest import ROOT, enliven
from tests.demo import CANKD
from tests.in_process import call_tool
from tests.openmmlab.visualization.shared import CLASSIFIER, SEGMENTATION, SEGMENTER, random_checkpoint


@pytest.fixture(scope="session")
def distilled(tmp_path_factory, mini_data, run_tool) -> Path:
    """Checkpoint of a distillation of three iterations under the shipped teacher."""
    work_dir = tmp_path_factory.mktemp("distilled")
    options = ["train_cfg.max_iters=3", "train_cfg.val_interval=3", "default_hooks.checkpoint.interval=3"]
    options += [f"{split}_dataloader.dataset.data_root={mini_data}/" for split in ("train", "val")]
    options += [f"val_evaluator.ann_file={mini_data}/annotations/val.json", "train_dataloader.batch_size=4"]
    run_tool("train.py", CANKD, "--work-dir", work_dir, "--cfg-options", *options)
    return work_dir / "iter_3.pth"


@pytest.fixture(scope="session")
def converted(distilled) -> Path:
    """Its student, converted."""
    call_tool("model_converters/convert_kd_ckpt_to_student.py", distilled)
    return distilled.with_name("iter_3_student.pth")


@pytest.fixture(scope="session")
def scene(mini_data) -> Path:
    return sorted((mini_data / "val").iterdir())[0]


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory) -> tuple[Path, Path, Path]:
    """Configuration, checkpoint and one image of a segmenter with random weights; its data set has one label map."""
    folder = tmp_path_factory.mktemp("segmenter")
    for name in ("images", "labels"):
        (folder / name).mkdir()
    labels = np.zeros((60, 100), np.uint8)
    labels[30:, :50], labels[30:, 50:], labels[:5] = 1, 2, 255
    cv2.imwrite(str(folder / "labels/street.png"), labels)
    image = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "images/street.png"), image)
    config = folder / "segmenter.py"
    config.write_text(SEGMENTER.format(data=folder))
    return config, random_checkpoint(config), folder / "images/street.png"


@pytest.fixture(scope="session")
def classifier(tmp_path_factory) -> tuple[Path, Path]:
    """Configuration and checkpoint of a classifier with random weights."""
    config = tmp_path_factory.mktemp("classifier") / "classifier.py"
    config.write_text(CLASSIFIER.format(pack="PackInputs" if CLASSIFICATION == "mmpretrain" else "PackClsInputs"))
    return config, random_checkpoint(config)


@pytest.fixture(scope="session")
def segmentation(tmp_path_factory) -> tuple[Path, Path]:
    """Configuration and checkpoint of a segmenter's distillation through a connector, with random weights."""
    folder = tmp_path_factory.mktemp("segmentation")
    config, checkpoint = folder / "distillation.py", folder / "distillation.pth"
    config.write_text(SEGMENTATION.format(root=ROOT))
    cfg = read_config(config)
    with in_scope(cfg):
        algorithm = MODELS.build(cfg.model)
    enliven(algorithm.distiller)
    torch.save({"state_dict": algorithm.state_dict()}, checkpoint)
    return config, checkpoint
