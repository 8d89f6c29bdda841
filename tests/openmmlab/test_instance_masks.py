"""Instance segmentation on generated scenes: trained, converted, evaluated with mask AP, and drawn."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.config import Config

import tests.recording  # noqa: F401  (registers the hook)
from cankd.openmmlab.configs import read_config
from cankd.openmmlab.engine import Runner
from cankd.openmmlab.inference import predict
from cankd.openmmlab.loading import load_model
from cankd.openmmlab.visualization import Boxes
from cankd.openmmlab.visualization.features import predicted_boxes
from cankd.openmmlab.visualization.ground_truth import ground_truth
from tests.conftest import ROOT
from tests.demo import records_of
from tests.in_process import call_tool
from tests.train_recipe import overlay

RECIPE = ROOT / "configs/distill/mmdet/cankd/cankd_fpn_mask-rcnn_r101_mask-rcnn_r50_2x_coco.py"
STUDENT = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_2x_coco.py"

FEW_UNSURE = dict(score_thr=0, max_per_img=5)  # a head that hardly trained is sure of nothing


@pytest.fixture(scope="module")
def coco(tmp_path_factory, run_tool) -> Path:
    """A folder with a few scenes in COCO's layout."""
    out = tmp_path_factory.mktemp("layouts") / "coco"
    run_tool("dataset_tools/make_mini.py", "--layout", "coco", "--out", out, "--train", 4, "--val", 2)
    return out


def _images(coco: Path) -> list[Path]:
    return sorted((coco / "val2017").iterdir())


def _options(coco: Path) -> list[str]:
    """Options that evaluate the stock configuration on the scenes."""
    return [
        "--cfg-options",
        f"test_dataloader.dataset.data_root={coco}/",
        f"test_evaluator.ann_file={coco}/annotations/instances_val2017.json",
        "test_dataloader.num_workers=0",
        "test_dataloader.persistent_workers=False",
        "test_dataloader.dataset.pipeline.1.scale=(128,128)",
        *(f"model.test_cfg.rcnn.{key}={value}" for key, value in FEW_UNSURE.items()),
    ]


def test_annotated_masks_are_read_as_they_are_evaluated(coco):
    """The masks that are drawn as ground truth have a mask AP of 1."""
    cfg = read_config(STUDENT)
    cfg.test_dataloader.dataset.data_root = f"{coco}/"
    annotations = coco / "annotations" / "instances_val2017.json"
    metric = CocoMetric(ann_file=str(annotations), metric=["bbox", "segm"])
    metric.dataset_meta = {
        "classes": [category["name"] for category in json.loads(annotations.read_text())["categories"]]
    }
    for number, truth in enumerate(ground_truth(cfg, _images(coco)), start=1):
        assert isinstance(truth, Boxes) and truth.masks is not None
        assert truth.masks.shape == (len(truth.captions), 320, 320) and truth.masks.any(axis=(1, 2)).all()
        found = dict(
            bboxes=torch.tensor(truth.corners),
            scores=torch.ones(len(truth.captions)),
            labels=torch.tensor([metric.dataset_meta["classes"].index(caption) for caption in truth.captions]),
            masks=torch.tensor(truth.masks).bool(),
        )
        metric.process({}, [dict(img_id=number, ori_shape=(320, 320), pred_instances=found)])
    values = metric.evaluate(len(_images(coco)))
    assert values["coco/segm_mAP"] == values["coco/bbox_mAP"] == 1


@pytest.mark.slow
def test_masks_train_convert_evaluate_and_draw(coco, tmp_path):
    cfg = overlay(RECIPE, coco.parent, 128, None, batch_size=2)
    cfg["model"]["architecture"]["test_cfg"] = dict(rcnn=FEW_UNSURE)
    runner = Runner.from_cfg(Config(dict(cfg, work_dir=str(tmp_path / "run"))))
    runner.train()
    for record in records_of(tmp_path / "run"):
        assert all(math.isfinite(value) for value in record["losses"].values())
        assert record["losses"]["student.loss_mask"] > 0 and record["losses"]["distill.loss_fpn3"] > 0
    assert runner.message_hub.get_scalar("val/coco/segm_mAP").current() >= 0

    call_tool("model_converters/convert_kd_ckpt_to_student.py", tmp_path / "run/epoch_1.pth")
    student = tmp_path / "run/epoch_1_student.pth"
    tested = call_tool("test.py", STUDENT, student, "--work-dir", tmp_path / "test", *_options(coco)).stdout
    for kind in ("bbox", "segm"):
        measured = runner.message_hub.get_scalar(f"val/coco/{kind}_mAP").current()
        assert re.findall(rf"coco/{kind}_mAP: (\S+)", tested) == [f"{measured:.4f}"]

    call_tool(
        "visualizations/predictions.py", _images(coco)[0], "--model", "student", STUDENT, student, "--ground-truth",
        "--score-thr", 0, "--out-file", tmp_path / "masks.png", *_options(coco),
    )  # fmt: skip
    assert (tmp_path / "masks.png").stat().st_size > 10000
    options = {f"model.test_cfg.rcnn.{key}": value for key, value in FEW_UNSURE.items()}
    model, cfg = load_model(STUDENT, student, cfg_options=options)
    found = predicted_boxes(predict(model, cfg, _images(coco)[0]), model.dataset_meta["classes"], 0)
    assert found.masks is not None and found.masks.shape == (len(found.captions), 320, 320) == (5, 320, 320)
