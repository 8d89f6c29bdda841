"""Confusion matrices of detectors, segmenters and classifiers."""

from __future__ import annotations

import importlib.util
import json
import pickle
from pathlib import Path

import cv2
import mmdet
import numpy as np
import pytest
import torch

from cankd.openmmlab.analysis.confusion import detection_confusion
from cankd.openmmlab.configs import in_scope, read_config
from cankd.openmmlab.models import stock_model
from tests.demo import TEACHER, TEACHER_CKPT
from tests.in_process import call_tool
from tests.openmmlab.analysis.shared import options, read_matrix, refused


def test_confusion_of_known_detections_is_known():
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 90, 10]], np.float32)
    labels, ignored = np.array([0, 1, 1, 0]), np.array([False, False, False, True])
    found = np.array([[0, 0, 10, 10], [1, 0, 10, 10], [20, 0, 30, 10], [0, 50, 10, 60], [60, 0, 88, 10]], np.float32)
    # Object 0 twice right, object 1 taken for class 0, object 2 missed, one box on nothing, one on a crowd.
    matrix = detection_confusion((boxes, labels, ignored), (found, np.array([0, 0, 0, 1, 1])), 2, 0.5)
    assert matrix.tolist() == [[2, 0, 0], [1, 0, 2], [0, 1, 0]]
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, int)
    assert detection_confusion((boxes, labels, ignored), nothing, 2, 0.5).tolist() == [[0, 0, 1], [0, 0, 2], [0, 0, 0]]
    empty = (*nothing, np.zeros(0, bool))
    assert detection_confusion(empty, (found, np.array([0, 0, 0, 1, 1])), 2, 0.5)[2].tolist() == [3, 2, 0]


@pytest.fixture(scope="module")
def predictions(mini_data, tmp_path_factory) -> Path:
    """What tools/test.py --out wrote for the shipped teacher on eight scenes."""
    folder = tmp_path_factory.mktemp("predictions")
    arguments = ["--work-dir", folder, "--out", folder / "teacher.pkl", *options(mini_data)]
    call_tool("test.py", TEACHER, TEACHER_CKPT, *arguments)
    return folder / "teacher.pkl"


def test_detections_are_counted_as_by_mmdet(predictions, mini_data, tmp_path):
    file = Path(mmdet.__file__).parent / ".mim/tools/analysis_tools/confusion_matrix.py"
    spec = importlib.util.spec_from_file_location("mmdet_confusion_matrix", file)
    assert spec and spec.loader
    published = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(published)
    cfg = read_config(TEACHER, {"test_dataloader.dataset.data_root": f"{mini_data}/"})
    with in_scope(cfg):
        dataset = mmdet.registry.DATASETS.build(cfg.test_dataloader.dataset)
    with predictions.open("rb") as stream:
        expected = published.calculate_confusion_matrix(dataset, pickle.load(stream), 0.2, None, 0.5)
    thresholds = ["--score-thr", 0.2, "--tp-iou-thr", 0.5, "--color-theme", "viridis"]
    call_tool("analysis_tools/confusion_matrix.py", TEACHER, predictions, tmp_path, *thresholds, *options(mini_data))
    found = read_matrix(tmp_path / "confusion_matrix_teacher.csv")
    assert found.tolist() == expected.tolist() and found.trace() > 10
    assert cv2.imread(str(tmp_path / "confusion_matrix.png")) is not None


def test_perfect_and_shifted_detections_compared(predictions, mini_data, tmp_path):
    annotations = json.loads((mini_data / "annotations/val.json").read_text())["annotations"]
    with predictions.open("rb") as stream:
        samples = pickle.load(stream)
    for sample in samples:
        truth = [a for a in annotations if a["image_id"] == sample["img_id"]]
        boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in truth)]).float()
        labels = torch.tensor([a["category_id"] - 1 for a in truth])
        sample["pred_instances"] = {"bboxes": boxes, "labels": labels, "scores": torch.ones(len(truth))}
    (tmp_path / "right.pkl").write_bytes(pickle.dumps(samples))
    for sample in samples:
        sample["pred_instances"]["labels"] = (sample["pred_instances"]["labels"] + 1) % 10
    (tmp_path / "shifted.pkl").write_bytes(pickle.dumps(samples))
    arguments = [TEACHER, tmp_path / "right.pkl", tmp_path, "--compare", tmp_path / "shifted.pkl", "--tp-iou-thr", 0.99]
    call_tool("analysis_tools/confusion_matrix.py", *arguments, *options(mini_data))
    right, shifted = (read_matrix(tmp_path / f"confusion_matrix_{name}.csv") for name in ("right", "shifted"))
    counts = np.bincount([a["category_id"] - 1 for a in annotations], minlength=10)
    assert right[:10, :10].tolist() == np.diag(counts).tolist() and right[10].sum() == right[:, 10].sum() == 0
    # Every object was taken for the next class, so none was found as its own.
    assert shifted[:10, :10].tolist() == np.roll(np.diag(counts), 1, axis=1).tolist()
    assert shifted[:, 10].tolist() == [*counts, 0]


def test_confusion_matrix_refuses_bad_input(predictions, mini_data, tmp_path):
    broken = tmp_path / "broken.pkl"
    broken.write_bytes(b"no pickle")
    fewer = tmp_path / "fewer.pkl"
    other = tmp_path / "other.pkl"
    with predictions.open("rb") as stream:
        samples = pickle.load(stream)
    fewer.write_bytes(pickle.dumps(samples[:3]))
    other.write_bytes(pickle.dumps(samples[::-1]))
    out = tmp_path / "out"
    for arguments, message in (
        ([TEACHER, tmp_path / "absent.pkl", out], "absent.pkl"),
        ([TEACHER, broken, out], "cannot be read as a pickle"),
        ([TEACHER, fewer, out, *options(mini_data)], "got 3, expected 8"),
        ([TEACHER, other, out, *options(mini_data)], "image 0 is 7"),
        ([tmp_path / "absent.py", predictions, out], "expected an existing file"),
        ([TEACHER, predictions, out, "--names", "a", "b", *options(mini_data)], "expected 1 different names"),
        ([TEACHER, predictions, broken / "out", *options(mini_data)], "broken.pkl"),
    ):
        assert message in refused("confusion_matrix", *arguments)
    assert not out.exists()


@pytest.mark.slow
def test_pixels_are_counted_as_by_mmseg(segmenter, tmp_path):
    config, checkpoint = segmenter
    call_tool("test.py", config, checkpoint, "--work-dir", tmp_path, "--out", tmp_path / "predictions.pkl")
    metrics = json.loads(next(tmp_path.glob("*/*.json")).read_text())
    call_tool("analysis_tools/confusion_matrix.py", config, tmp_path / "predictions.pkl", tmp_path)
    matrix = read_matrix(tmp_path / "confusion_matrix_predictions.csv")
    assert matrix.shape == (19, 19)
    union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    iou = 100 * matrix.diagonal()[union > 0] / union[union > 0]
    assert iou.mean() == pytest.approx(metrics["mIoU"], abs=0.01)
    assert 100 * matrix.trace() / matrix.sum() == pytest.approx(metrics["aAcc"], abs=0.01)


@pytest.mark.slow
def test_a_classifier_is_counted_and_corrupted(run_tool, tmp_path):
    data = tmp_path / "data"
    run_tool("dataset_tools/make_mini.py", "--layout", "imagenet", "--out", data, "--train", 1, "--val", 6)
    config = tmp_path / "resnet.py"
    config.write_text(
        "_base_ = ['mmpretrain::_base_/datasets/imagenet_bs32.py', 'mmpretrain::_base_/default_runtime.py']\n"
        f"test_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root='{data}'))\n"
        "test_cfg = dict()\n"
        "train_dataloader = val_dataloader = val_evaluator = data_preprocessor = None\n"
        "model = dict(type='mmrazor.StockModel', cfg='mmpretrain::resnet/resnet18_8xb32_in1k.py',\n"
        "             backbone=dict(base_channels=8), head=dict(in_channels=64))\n"
    )
    labels = [int(line.split()[1]) for line in (data / "meta/val.txt").read_text().splitlines()]
    usual = max(labels, key=labels.count)
    state = stock_model(str(config)).state_dict()
    state["head.fc.bias"][usual] = 1e4  # it takes everything for one class
    torch.save({"state_dict": state}, tmp_path / "resnet.pth")
    call_tool("test.py", config, tmp_path / "resnet.pth", "--work-dir", tmp_path, "--out", tmp_path / "p.pkl")
    call_tool("analysis_tools/confusion_matrix.py", config, tmp_path / "p.pkl", tmp_path)
    matrix = read_matrix(tmp_path / "confusion_matrix_p.csv")
    assert matrix[:, usual].tolist() == np.bincount(labels, minlength=1000).tolist() and matrix.sum() == len(labels)
    assert cv2.imread(str(tmp_path / "confusion_matrix.png")).shape[1] < 4000
    arguments = ["--corruptions", "fog", "--severities", 0, 3, "--work-dir", tmp_path / "work"]
    out = tmp_path / "r.pkl"
    call_tool("analysis_tools/test_robustness.py", config, tmp_path / "resnet.pth", "--out", out, *arguments)
    summary = json.loads(out.with_suffix(".json").read_text())["summary"]
    assert summary["metric"] == "accuracy/top1"
    expected = pytest.approx(100 * labels.count(usual) / len(labels), abs=1e-3)
    assert summary["percent"]["resnet"]["P"] == summary["percent"]["resnet"]["mPC"] == expected
