"""The analysis tools, run as commands, and what they compute."""

from __future__ import annotations

import csv
import importlib.util
import json
import pickle
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import mmdet
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmrazor.registry import MODELS

from cankd.losses import NLKDINLoss
from cankd.losses.cankd_naive import NaiveNLKDINLoss
from cankd.openmmlab.analysis.complexity import MultiplyAdds
from cankd.openmmlab.analysis.confusion import detection_confusion
from cankd.openmmlab.analysis.curves import read_curves
from cankd.openmmlab.analysis.robustness import GROUPS, SeededCorruption, insert_corruption, seeded, summarise
from cankd.openmmlab.analysis.robustness_study import fingerprint
from cankd.openmmlab.checkpoint import Checkpoint
from cankd.openmmlab.configs import in_scope, read_config
from cankd.openmmlab.inference import predict
from cankd.openmmlab.loading import load_model
from cankd.openmmlab.models import stock_model
from cankd.openmmlab.visualization.matrices import Matrix, draw_matrices
from cankd.utils.files import sha256
from tests.conftest import ROOT
from tests.in_process import call_tool

DEMO = ROOT / "configs/demo"
STUDENT, CANKD, TEACHER = (DEMO / f"quickstart_{name}.py" for name in ("student", "cankd", "teacher"))
TEACHER_CKPT = DEMO / "quickstart_teacher.pth"
LOGS = ROOT / "logfile/quickstart/iter1200_seed0"


def options(data: Path) -> list[str]:
    """Points a quickstart configuration to other test data."""
    return [
        "--cfg-options",
        f"test_dataloader.dataset.data_root={data}/",
        f"test_evaluator.ann_file={data}/annotations/val.json",
        "test_dataloader.batch_size=4",
    ]


def refused(tool: str, *arguments) -> str:
    """The single line with which a tool refuses its input."""
    done = call_tool(f"analysis_tools/{tool}.py", *arguments, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stdout
    return done.stdout.strip().splitlines()[-1]


# Curves


def write_log(path: Path, lines: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_curves_put_epochs_at_iterations_and_join_resumed_runs(tmp_path):
    run = tmp_path / "run"
    first = [{"loss": 3.0, "epoch": 1, "iter": 10, "step": 10}, {"mIoU": 5.0, "step": 1}]
    first += [{"loss": 2.0, "epoch": 2, "iter": 20, "step": 20}, {"mIoU": 6.0, "step": 2}]
    first += [{"loss": 9.0, "epoch": 3, "iter": 30, "step": 30}]
    resumed = [{"loss": 1.0, "student.loss_x": 4.0, "epoch": 3, "iter": 30, "step": 30}, {"mIoU": 7.0, "step": 3}]
    files = [write_log(run / name / "vis_data/scalars.json", lines) for name, lines in (("1", first), ("2", resumed))]
    curves = read_curves(files)
    assert curves["loss"] == ([10, 20, 30], [3.0, 2.0, 1.0])
    assert curves["mIoU"] == ([10, 20, 30], [5.0, 6.0, 7.0])
    assert curves["loss_x"] == ([30], [4.0])
    out = tmp_path / "curves.png"
    call_tool("analysis_tools/plot_curves.py", run, "--out", out, "--names", "mine")
    rows = list(csv.reader(out.with_suffix(".csv").read_text().splitlines()))
    assert rows[0] == ["run", "name", "iteration", "value"] and ["mine", "mIoU", "30", "7.0"] in rows


def test_plotted_runs_show_what_their_logs_hold(tmp_path):
    out = tmp_path / "one.png"
    runs, names = [LOGS / "student.json", LOGS / "cankd.json"], ["alone", "CanKD"]
    level = ["--level", "coco/bbox_mAP", "teacher", 0.605]
    call_tool(
        "analysis_tools/plot_curves.py", *runs, "--names", *names, "--out", out, "--keys", "coco/bbox_mAP", *level
    )
    rows = list(csv.DictReader(out.with_suffix(".csv").read_text().splitlines()))
    summary = json.loads((LOGS / "summary.json").read_text())
    last = {row["run"]: float(row["value"]) for row in rows if row["iteration"] == "1200"}
    assert last == {"alone": summary["student"]["AP"] / 100, "CanKD": summary["cankd"]["AP"] / 100}
    drawn = cv2.imread(str(out))[..., ::-1].astype(int)
    # matplotlib's first two colours and gray: CanKD's curve ends above the student's, the teacher's level on top.
    colours = {"alone": (31, 119, 180), "CanKD": (255, 127, 14), "teacher": (128, 128, 128)}
    legend = drawn.shape[0] * 9 // 10
    highest = {}
    for name, colour in colours.items():
        rows_of, _ = np.nonzero((np.abs(drawn[:legend] - colour) < 12).all(axis=2))
        assert len(rows_of) > 100, name
        highest[name] = rows_of.min()
    assert highest["teacher"] < highest["CanKD"] < highest["alone"]


def test_the_teacher_of_a_validation_gets_its_own_curve(tmp_path):
    log = write_log(tmp_path / "run.json", [{"coco/bbox_mAP": 0.1, "teacher.coco/bbox_mAP": 0.5, "step": 7}])
    call_tool("analysis_tools/plot_curves.py", log, "--names", "run", "--out", tmp_path / "a.png")
    written = (tmp_path / "a.csv").read_text().splitlines()[1:]
    assert written == ["run,coco/bbox_mAP,7,0.1", '"run, teacher",coco/bbox_mAP,7,0.5']


def test_plot_curves_refuses_bad_input(tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text("no json\n")
    log, out = LOGS / "student.json", tmp_path / "out.png"
    for arguments, message in (
        ([tmp_path / "absent", "--out", out], "expected a scalars.json or a work dir"),
        ([tmp_path, "--out", out], "expected a scalars.json or a work dir"),
        ([broken, "--out", out], "broken.json:1: expected one JSON object"),
        ([log, "--out", out, "--keys", "mIuO"], "no such quantity: mIuO. Logged are: "),
        ([log, "--out", out, "--names", "a", "b"], "expected 1 different names"),
        ([log, "--out", tmp_path / "out.jpg"], "ends in .png"),
        ([log, "--out", broken / "out.png"], "broken.json"),
    ):
        assert message in refused("plot_curves", *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.json"]


# Matrices and confusion


def test_matrices_are_coloured_by_value(tmp_path):
    values = np.array([[1.0, 0.0], [0.0, np.nan]])
    matrices = {"plain": Matrix(values), "difference": Matrix(-values, difference=True)}
    draw_matrices(matrices, ["a", "b"], ["c", "d"], ("rows", "columns"), tmp_path / "m.png")
    drawn = cv2.imread(str(tmp_path / "m.png"))[..., ::-1].astype(int)

    def share(colour) -> float:
        return (np.abs(drawn - colour) < 6).all(axis=2).mean()

    cell = share((253, 231, 37))  # viridis' highest: one of four cells of the left matrix
    assert cell > 0.01 and share((68, 1, 84)) == pytest.approx(2 * cell, rel=0.2)
    assert share((103, 0, 31)) == pytest.approx(cell, rel=0.2)  # the lowest difference, red


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


def read_matrix(file: Path) -> np.ndarray:
    rows = list(csv.reader(file.read_text().splitlines()))
    assert rows[0][1:] == [row[0] for row in rows[1:]]
    return np.array([row[1:] for row in rows[1:]], int)


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


# Segmentation and classification, on generated images in the real layouts


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory, run_tool) -> tuple[Path, Path]:
    """Configuration and checkpoint of a small PSPNet with random weights on four Cityscapes-like images."""
    folder = tmp_path_factory.mktemp("segmenter")
    data = folder / "data"
    run_tool("dataset_tools/make_mini.py", "--layout", "cityscapes", "--out", data, "--train", 1, "--val", 2)
    config = folder / "pspnet.py"
    config.write_text(
        "_base_ = ['mmseg::_base_/datasets/cityscapes.py', 'mmseg::_base_/default_runtime.py']\n"
        "pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(128, 64)),\n"
        "            dict(type='LoadAnnotations'), dict(type='PackSegInputs')]\n"
        "test_dataloader = dict(num_workers=0, persistent_workers=False,\n"
        f"                       dataset=dict(data_root='{data}', pipeline=pipeline))\n"
        "test_cfg = dict(type='TestLoop')\n"
        "train_dataloader = val_dataloader = val_evaluator = None\n"
        "model = dict(type='mmrazor.StockModel', cfg='mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',\n"
        "             backbone=dict(init_cfg=None, base_channels=8), pretrained=None,\n"
        "             decode_head=dict(in_channels=64, channels=16), auxiliary_head=dict(in_channels=32, channels=8))\n"
    )
    torch.manual_seed(3)
    model = stock_model(str(config))
    model.init_weights()
    torch.save({"state_dict": model.state_dict()}, folder / "pspnet.pth")
    return config, folder / "pspnet.pth"


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
def test_robustness_of_a_segmenter(segmenter, tmp_path):
    config, checkpoint = segmenter
    arguments = ["--corruptions", "contrast", "--severities", 0, 5, "--work-dir", tmp_path / "work"]
    done = call_tool("analysis_tools/test_robustness.py", config, checkpoint, "--out", tmp_path / "r.pkl", *arguments)
    state = json.loads((tmp_path / "r.json").read_text())
    assert state["summary"]["metric"] == "mIoU" and "mIoU, %" in done.stdout
    results = state["models"]["pspnet"]
    assert state["summary"]["percent"]["pspnet"]["P"] == results["clean"]["mIoU"]
    assert state["summary"]["percent"]["pspnet"]["mPC"] == results["corrupted"]["contrast"]["5"]["mIoU"]
    # The corruption reached the images: what is predicted differs.
    assert results["clean"] != results["corrupted"]["contrast"]["5"]


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


# Robustness


@pytest.mark.parametrize("corruption", GROUPS["all"])
def test_corruptions_depend_on_the_key_alone(corruption):
    scene = np.random.default_rng(0).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    scene = cv2.resize(scene, (64, 48), interpolation=cv2.INTER_CUBIC)
    transform = SeededCorruption(corruption, 3, seed=1)

    def corrupted(**key) -> np.ndarray:
        return transform({"img_path": "a.png", "img": scene.copy(), **key})["img"]

    np.random.seed(5)
    first = corrupted(img_id=1)
    after = np.random.rand()
    np.random.rand(100)
    assert first.dtype == np.uint8 and first.shape == scene.shape and (first != scene).any()
    assert (corrupted(img_id=1) == first).all()
    np.random.seed(5)
    assert np.random.rand() == after  # the state outside is as it was
    if corruption in (
        "gaussian_noise",
        "impulse_noise",
        "glass_blur",
        "motion_blur",
        "snow",
        "fog",
        "elastic_transform",
    ):
        assert (corrupted(img_id=2) != first).any()


def test_fresh_generators_are_seeded_inside_only():
    inside = []
    for _ in range(2):
        with seeded("image", 3):
            inside.append(np.random.default_rng().random())
    assert inside[0] == inside[1]
    assert np.random.default_rng().random() != np.random.default_rng().random()
    with seeded("image", 4):
        assert np.random.default_rng().random() != inside[0]
        assert np.random.default_rng(7).random() == np.random.default_rng(7).random() != inside[0]


def test_corrupted_images_of_equal_names_stay_apart(tmp_path):
    images = tmp_path / "images"
    files = [images / name for name in ("cat/001.jpg", "dog/001.jpg", "a.jpg", "a.png", "a.jpg.png")]
    files.append(tmp_path / "elsewhere/a.jpg")
    usual = partial(SeededCorruption, "contrast", 1, folder=str(tmp_path / "kept"), images=str(images))
    corrupted = {}
    for number, file in enumerate(files):
        results = {"img_path": str(file), "img": np.full((32, 32, 3), 40 * number, np.uint8)}
        corrupted[file] = usual().transform(results)["img"]
    for file, expected in corrupted.items():
        assert np.array_equal(usual(load=True)({"img_path": str(file)})["img"], expected)
    kept = tmp_path / "kept/contrast/1"
    assert (kept / "cat/001.jpg.png").is_file() and len(list(kept.rglob("*.png"))) == len(files)
    cv2.imwrite(str(kept / "mine.jpg"), np.zeros((32, 32, 3), np.uint8))  # not written by this package
    assert not usual(load=True)({"img_path": str(images / "mine.jpg")})["img"].any()
    with pytest.raises(FileNotFoundError, match="expected .*contrast/1/b.jpg.png, or that name without .png"):
        usual(load=True)({"img_path": str(images / "b.jpg")})


def test_kept_images_are_named_from_the_data_sets_folder():
    def folders(**dataset) -> list[str]:
        parts = dataset.get("datasets", [dataset])
        for part in parts:
            part["pipeline"] = [{"type": "LoadImageFromFile"}]
        insert_corruption(dataset, {"type": "SeededCorruption"})
        return [part["pipeline"][1]["images"] for part in parts]

    assert folders(data_root="data/coco/", data_prefix=dict(img="val2017/")) == ["data/coco/val2017/"]
    assert folders(data_root="data/city", data_prefix=dict(img_path="val", seg_map_path="gt")) == ["data/city/val"]
    assert folders(data_root="data/imagenet", data_prefix="val") == ["data/imagenet/val"]
    assert folders(data_root="data/imagenet", data_prefix="") == ["data/imagenet/"]
    assert folders(datasets=[dict(data_root="a"), dict(data_root="b")]) == ["/", "/"]  # equal names below them


def test_the_corruption_goes_behind_the_loading_step_of_every_data_set():
    dataset = {"datasets": [{"dataset": {"pipeline": [{"type": "mmdet.LoadImageFromFile"}, {"type": "Resize"}]}}]}
    insert_corruption(dataset, {"type": "SeededCorruption"})
    steps = dataset["datasets"][0]["dataset"]["pipeline"]
    assert [step["type"] for step in steps] == ["mmdet.LoadImageFromFile", "SeededCorruption", "Resize"]
    with pytest.raises(ValueError, match="no step LoadImageFromFile"):
        insert_corruption({"pipeline": [{"type": "Resize"}]}, {})


def test_the_summary_follows_the_definitions():
    results = {
        "clean": {"coco/bbox_mAP": 0.5},
        "corrupted": {
            "fog": {"1": {"coco/bbox_mAP": 0.4}, "2": {"coco/bbox_mAP": 0.2}},
            "snow": {"1": {"coco/bbox_mAP": 0.1}, "2": {}},  # nothing was detected
        },
    }
    summary = summarise(results, "coco/bbox_mAP", ["fog", "snow"])
    assert summary["P"] == 50 and summary["mPC"] == pytest.approx(17.5) and summary["rPC"] == pytest.approx(35)
    assert summarise(results, "coco/bbox_mAP", ["fog"])["mPC"] == pytest.approx(30)
    assert summarise({"corrupted": {}}, "mIoU", [])["mPC"] is None


@pytest.fixture(scope="module")
def blind(mini_data, tmp_path_factory) -> tuple[Path, Path]:
    """A detector that does not see the image, and data in which its best boxes are right."""
    folder = tmp_path_factory.mktemp("blind")
    state = torch.load(TEACHER_CKPT)["state_dict"]
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    state["backbone.conv1.weight"].zero_()
    torch.save({"state_dict": state}, folder / "blind.pth")
    model, cfg = load_model(TEACHER, folder / "blind.pth", cfg_options={"model.test_cfg": dict(score_thr=0.0)})
    found = predict(model, cfg, mini_data / "val/00000.png").pred_instances[:3]
    content = json.loads((mini_data / "annotations/val.json").read_text())
    content["annotations"] = [
        {"image_id": image["id"], "category_id": label + 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0}
        for image in content["images"]
        for (x0, y0, x1, y1), label in zip(found.bboxes.tolist(), found.labels.tolist())
    ]
    for number, annotation in enumerate(content["annotations"], start=1):
        annotation.update(id=number, area=annotation["bbox"][2] * annotation["bbox"][3])
    (folder / "annotations").mkdir()
    (folder / "annotations/val.json").write_text(json.dumps(content))
    (folder / "val").symlink_to(mini_data / "val")
    return folder / "blind.pth", folder


@pytest.mark.slow
def test_a_detector_that_does_not_see_the_image_loses_nothing(blind, tmp_path):
    checkpoint, data = blind
    out = tmp_path / "blind.pkl"
    arguments = [TEACHER, checkpoint, "--out", out, "--work-dir", tmp_path / "work", "--severities", 0, 1, 5]
    arguments += ["--corruptions", "noise", "fog", "pixelate", *options(data), "model.test_cfg.score_thr=0.0"]
    call_tool("analysis_tools/test_robustness.py", *arguments)
    summary = json.loads(out.with_suffix(".json").read_text())["summary"]["percent"]["blind"]
    assert summary["P"] > 10 and summary["mPC"] == pytest.approx(summary["P"]) and summary["rPC"] == pytest.approx(100)


class Distilled(NamedTuple):
    """Configuration and checkpoint of a distillation, and of the student cut out of it."""

    config: Path
    checkpoint: Path
    student_config: Path
    student: Path


@pytest.fixture(scope="module")
def distilled(tmp_path_factory) -> Distilled:
    """The shipped teacher, and as a student, so that it finds something, the same with noise on its weights."""
    folder = tmp_path_factory.mktemp("distilled")
    config = folder / "same.py"
    config.write_text(f"_base_ = ['{CANKD}']\nmodel = dict(architecture=dict(cfg='{TEACHER}'))\n")
    algorithm = MODELS.build(read_config(config).model)
    algorithm.architecture.load_state_dict(algorithm.teacher.state_dict())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in algorithm.architecture.backbone.parameters():
            weight.mul_(1 + 0.1 * torch.randn(weight.shape, generator=generator))
    torch.save({"state_dict": algorithm.state_dict(), "meta": {}}, folder / "run.pth")
    call_tool("model_converters/convert_kd_ckpt_to_student.py", folder / "run.pth")
    return Distilled(config, folder / "run.pth", TEACHER, folder / "run_student.pth")


ROBUSTNESS = ["--corruptions", "impulse_noise", "glass_blur", "--severities", 0, 2]


@pytest.mark.slow
def test_an_interrupted_run_resumes_to_the_same_numbers(distilled, mini_data, tmp_path):
    """Killed after two evaluations; and with other numbers of workers, from either kind of checkpoint."""
    first = [*distilled[2:], "--teacher", *distilled[:2], "--names", "student", "teacher", *ROBUSTNESS]
    common = ["--work-dir", tmp_path / "work", *options(mini_data)]
    whole, killed = tmp_path / "whole.pkl", tmp_path / "killed.pkl"
    done = call_tool("analysis_tools/test_robustness.py", *first, "--out", whole, *common)
    assert "6 evaluations, 6 of them to do" in done.stdout and "[6/6] teacher" in done.stdout
    assert re.search(r"\[1/6\] student, clean: .* about \d+ min \d+ s left", done.stdout)

    tool = str(ROOT / "tools/analysis_tools/test_robustness.py")
    command = [sys.executable, tool, *map(str, first), "--out", str(killed), "--workers", "1", *map(str, common)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = killed.with_suffix(".json")

    def evaluations() -> int:
        models = json.loads(state.read_text())["models"].values() if state.exists() else []
        return sum(("clean" in m) + sum(map(len, m["corrupted"].values())) for m in models)

    deadline = time.time() + 300
    while evaluations() < 2 and process.poll() is None and time.time() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = evaluations()
    assert 2 <= before < 6 and not (tmp_path / "killed_results.pkl").exists()
    done = call_tool("analysis_tools/test_robustness.py", *first, "--out", killed, *common)
    assert f"6 evaluations, {6 - before} of them to do" in done.stdout
    expected, found = (json.loads(file.with_suffix(".json").read_text()) for file in (whole, killed))
    assert found["models"] == expected["models"] and found["summary"] == expected["summary"]
    layout, other = (pickle.loads((tmp_path / f"{name}_results.pkl").read_bytes()) for name in ("whole", "killed"))
    assert layout == other
    assert layout["teacher"]["glass_blur"][2] == expected["models"]["teacher"]["corrupted"]["glass_blur"]["2"]
    summary = expected["summary"]["percent"]
    assert 0 < summary["student"]["P"] < summary["teacher"]["P"] > 20
    assert summary["student"]["retention"] == pytest.approx(100 * summary["student"]["mPC"] / summary["teacher"]["mPC"])


@pytest.mark.slow
def test_checkpoints_of_either_kind_and_kept_images_give_the_same_numbers(distilled, mini_data, tmp_path):
    """With the published tool's arguments, too, and pictures without ``--out``."""
    images, show = tmp_path / "images", tmp_path / "show"
    runs = {
        "run": [*distilled[:2], "--corrupted-dir", images, "--show-dir", show, "--wait-time", 1],
        "student": [*distilled[2:], "--corrupted-dir", images, "--load-dataset", "corrupted"],
    }
    common = "--summaries True --final-prints mPC --final-prints-aggregate all --launcher none --names model".split()
    found = {}
    for name, arguments in runs.items():
        files = [
            "--work-dir",
            tmp_path / name,
            *([] if name == "run" else ["--out", tmp_path / name / "robustness.pkl"]),
        ]
        tail = [*ROBUSTNESS, *common, *files, *options(mini_data)]
        done = call_tool("analysis_tools/test_robustness.py", *arguments, *tail)
        assert "mPC" in done.stdout and "rPC" not in done.stdout
        assert (tmp_path / name / "robustness_results.pkl").exists()
        found[name] = json.loads((tmp_path / name / "robustness.json").read_text())["models"]["model"]
    again = [*runs["student"][:3], tmp_path / "show", "--load-dataset", "corrupted", "--names", "model"]
    same = ["--work-dir", tmp_path / "student"]
    message = refused("test_robustness", *again, *ROBUSTNESS, *same, *options(mini_data))
    assert f"holds results of {{'seed': 0, 'load_dataset': 'corrupted', 'corrupted_dir': '{images}'}}" in message
    for folder in ("images/impulse_noise/2", "show/model/impulse_noise_2"):
        assert len(list((tmp_path / folder).glob("*.png"))) == 8
    for part in ("clean", "corrupted"):
        assert found["run"][part] == found["student"][part]
    accuracies = [found["run"]["clean"], *(by["2"] for by in found["run"]["corrupted"].values())]
    assert len({metrics["coco/bbox_mAP"] for metrics in accuracies} - {0.0}) == 3


@pytest.mark.slow
def test_robustness_refuses_bad_input(distilled, mini_data, tmp_path):
    config, run, _, student = distilled
    out = tmp_path / "r.pkl"
    usual = [TEACHER, student, "--out", out, "--corruptions", "None", "--work-dir", tmp_path / "work"]
    call_tool("analysis_tools/test_robustness.py", *usual, *options(mini_data))
    before = out.with_suffix(".json").read_text()
    for arguments, message in (
        ([*usual, "--seed", 1, *options(mini_data)], "holds results of {'seed': 0"),
        (
            [config, run, *usual[2:], "--names", student.stem, *options(mini_data)],
            "of another checkpoint or configuration",
        ),
        ([*usual, "--names", "a", "b"], "expected 1 different names"),
        ([STUDENT, tmp_path / "absent.pth", *usual[2:]], "absent.pth"),
        ([CANKD, run, *usual[2:], "--names", "other", *options(mini_data)], "does not fit"),
        ([tmp_path / "absent.py", student, *usual[2:]], "expected an existing file"),
        ([STUDENT, TEACHER_CKPT, *usual[2:4], "--out", tmp_path / "x.pkl", "--corruptions", "None"], "does not fit"),
        ([*usual, "--out", tmp_path / "r.txt"], "ends in .pkl"),
        ([*usual, "--out", out.with_suffix(".json") / "r.pkl"], "r.json"),
        ([*usual, "--load-dataset", "corrupted", "--corrupted-dir", tmp_path / "absent"], "expected a folder"),
    ):
        assert message in refused("test_robustness", *arguments)
    assert out.with_suffix(".json").read_text() == before
    done = call_tool("analysis_tools/test_robustness.py", *usual, "--corruptions", "rain", check=False)
    assert done.returncode == 2 and "rain" in done.stdout


def test_results_are_of_the_teachers_own_file_where_the_checkpoint_leaves_it_out(tmp_path):
    run, teacher = tmp_path / "run.pth", tmp_path / "teacher.pth"
    cfg = Config(dict(model=dict(architecture={}, teacher={}, teacher_ckpt=str(teacher))))

    def digests() -> list[str]:
        return [fingerprint(cfg, Checkpoint.read(run), role)["checkpoint_sha256"] for role in ("student", "teacher")]

    weights = {"architecture.a": torch.zeros(1), "distiller.b": torch.zeros(1)}
    torch.save({"state_dict": weights}, run)
    torch.save({"state_dict": {"a": torch.zeros(1)}}, teacher)
    assert digests() == [sha256(run), sha256(teacher)]
    torch.save({"state_dict": {"a": torch.ones(1)}}, teacher)
    assert digests() == [sha256(run), sha256(teacher)]
    torch.save({"state_dict": {**weights, "teacher.a": torch.zeros(1)}}, run)
    assert digests() == [sha256(run)] * 2


# Complexity


def test_table_5_is_made_again_and_the_products_come_out_cheaper(tmp_path):
    done = call_tool("analysis_tools/complexity.py", "--out", tmp_path / "cost.json")
    costs = json.loads((tmp_path / "cost.json").read_text())["multiply_adds"]
    paper, linear = costs["CanKD, paper's order"], costs["CanKD, linear order"]
    for name, flops, parameters in (
        ("FKD", 3.238, 0.461),  # the paper prints 3.23 and 0.46
        ("MGD", 9.664, 1.180),
        ("CanKD, paper's order", 1.091, 0.132),
        ("CanKD, linear order", 1.091, 0.132),
    ):
        assert costs[name]["thop"] / 1e9 == pytest.approx(flops, abs=5e-4), name
        assert costs[name]["parameters"] / 1e6 == pytest.approx(parameters, abs=5e-4), name
    # 1x1 convolutions of both maps; then either theta phi and A g, or phi g, W_z of it and one product.
    batch, channels, inner, positions, pooled = 2, 256, 128, 64 * 64, 32 * 32
    convolutions = batch * 3 * positions * channels * inner
    w_z = batch * positions * inner * channels
    assert paper["counted"] == convolutions + w_z + batch * 2 * positions * pooled * inner
    context = batch * (pooled * inner * inner + channels * inner * inner)
    assert linear["counted"] == convolutions + context + w_z
    assert f"{paper['counted'] / 1e9:.3f}" in done.stdout


# Two images of 16 channels and 120 positions, 30 after pooling, 8 channels inside: a 1x1 convolution of all
# positions is 30720, a product over all pairs of positions 57600 or, of 16 channels, 115200.
REFERENCE_COSTS = {
    "dot_product": 4 * 30720 + 2 * 57600,
    "embedded_gaussian": 4 * 30720 + 2 * 57600,
    "gaussian": 2 * 30720 + 115200 + 57600,
    "concatenation": 4 * 30720 + 115200 + 57600,
}


@pytest.mark.parametrize("affinity", REFERENCE_COSTS)
def test_multiply_adds_are_those_of_the_formulas_and_of_torchs_own_counter(affinity):
    x, y = torch.randn(2, 2, 16, 12, 10)
    loss = NaiveNLKDINLoss(16, affinity=affinity)
    with MultiplyAdds() as counter:
        loss(x, y)
    assert counter.total == REFERENCE_COSTS[affinity]
    if importlib.util.find_spec("torch.utils.flop_counter"):  # from torch 2.1 on
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as expected:
            loss(x, y)
        assert expected.get_total_flops() == 2 * counter.total


def test_multiply_adds_of_transposed_convolutions_and_of_fused_attention():
    x, y = torch.randn(2, 2, 16, 12, 10)
    with MultiplyAdds() as counter:
        torch.nn.ConvTranspose2d(16, 5, 3, stride=2)(x)
    assert counter.total == x.numel() * 5 * 9
    # Whichever way torch computes attention here, it is the products of the matrix form.
    with torch.no_grad(), MultiplyAdds() as counter:
        NLKDINLoss(16, affinity="embedded_gaussian")(x, y)
    assert counter.total == REFERENCE_COSTS["embedded_gaussian"]


def test_complexity_refuses_a_shape_that_is_none():
    assert "expected B C H W" in refused("complexity", "--shape", 2, 256, 0, 64)


# What docs/analysis.md shows

DOCS = (ROOT / "docs/analysis.md").read_text(encoding="utf-8")
RECORDED = ROOT / "logfile/analysis"


def test_shown_output_is_recorded_output():
    blocks = re.findall(r"<!-- (logfile/analysis/\S+) -->\n```text\n(.*?)\n```", DOCS, re.S)
    assert len(blocks) == DOCS.count("```text") >= 4
    for file, shown in blocks:
        assert shown in (ROOT / file).read_text(encoding="utf-8"), file
    for name in re.findall(r"\]\(([^)#:]+)\)", DOCS):
        assert (ROOT / "docs" / name).exists(), name


def test_recorded_output_is_of_the_recorded_numbers():
    text = (RECORDED / "robustness.txt").read_text()
    state = json.loads((RECORDED / "robustness.json").read_text())
    teacher = summarise(state["models"]["teacher"], "coco/bbox_mAP", GROUPS["benchmark"])["mPC"]
    for name, results in state["models"].items():
        summary = summarise(results, "coco/bbox_mAP", GROUPS["benchmark"])
        figures = [summary["P"], summary["mPC"], summary["rPC"]]
        figures += [] if name == "teacher" else [100 * summary["mPC"] / teacher]
        row = re.search(rf"^{name} +(.*)$", text, re.M)
        assert row and [float(cell) for cell in row.group(1).split() if cell != "-"] == [round(f, 1) for f in figures]
        assert sum(map(len, results["corrupted"].values())) == 75
    for name in ("complexity", "complexity_p3"):
        costs = json.loads((RECORDED / f"{name}.json").read_text())["multiply_adds"]
        text = (RECORDED / f"{name}.txt").read_text()
        assert all(re.search(rf"^{loss} .* {cost['counted'] / 1e9:.3f}$", text, re.M) for loss, cost in costs.items())
    for name in ("student_alone", "CanKD"):
        matrix = read_matrix(RECORDED / f"confusion_matrix_{name}.csv")
        share = 100 * matrix.trace() / matrix.sum()
        line = f"{name.replace('_', ' ')}: {matrix.sum()} counted, {share:.1f} % on the diagonal"
        assert line in (RECORDED / "confusion_matrix.txt").read_text()
