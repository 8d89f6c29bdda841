"""tools/make_config.py on data of one's own: what the teacher's checkpoint must know, and where data come from."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from cankd.openmmlab.configs import read_config
from cankd.openmmlab.loading import build_model
from cankd.openmmlab.models import stock_model
from tests.in_process import call_tool

TEACHER = "rtmdet_s_8xb32-300e_coco"
STUDENT = "rtmdet_tiny_8xb32-300e_coco"
MASKS = """own_data = dict(
    root="{root}",
    classes=("a", "b", "c"),
    train=dict(images="train/images", masks="train/masks"),
    val=dict(images="val/images", masks="val/masks"),
)
"""
OTHERS = "has other classes than the data: only the teacher's backbone and neck are used."


@pytest.fixture(scope="module")
def data(tmp_path_factory, mini_data) -> Path:
    file = tmp_path_factory.mktemp("own") / "my_data.py"
    splits = [f"{name}=dict(annotations='annotations/{name}.json', images='{name}')" for name in ("train", "val")]
    file.write_text(f"own_data = dict(root='{mini_data}', classes={tuple('0123456789')}, {', '.join(splits)})\n")
    return file


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[str, Any]:
    """Random weights of a teacher with ten classes."""
    return stock_model(f"mmdet::rtmdet/{TEACHER}.py", num_classes=10).state_dict()


def _checkpoint(tmp_path: Path, weights: dict[str, Any], classes: Any = None) -> Path:
    meta = {"dataset_meta": {"classes": classes}} if classes else {}
    torch.save({"state_dict": weights, "meta": meta}, tmp_path / "teacher.pth")
    return tmp_path / "teacher.pth"


def _make(tmp_path: Path, *arguments: Any, check: bool = True) -> str:
    return call_tool("make_config.py", *arguments, "--out", tmp_path / "my_config.py", check=check).stdout


def test_a_published_teacher_gives_its_maps_alone(tmp_path, data):
    assert OTHERS in _make(tmp_path, STUDENT, TEACHER, "--data", data)
    text = (tmp_path / "my_config.py").read_text()
    assert len(text.splitlines()) <= 25 and "my_data.py" in text
    cfg = read_config(tmp_path / "my_config.py")
    assert "num_classes" not in cfg.model.teacher and build_model(cfg).bbox_head.num_classes == 10


@pytest.mark.slow
def test_a_teacher_that_learned_the_classes(tmp_path, data, weights):
    checkpoint = _checkpoint(tmp_path, weights, tuple("0123456789"))
    printed = _make(tmp_path, STUDENT, TEACHER, "--data", data, "--teacher-ckpt", checkpoint)
    assert OTHERS not in printed
    assert read_config(tmp_path / "my_config.py").model.teacher.num_classes == 10
    # A file of one's own brings its classes; its checkpoint may be trained later.
    call_tool("make_config.py", TEACHER, "--data", data, "--out", tmp_path / "my_teacher.py")
    later = ("--teacher-ckpt", "work_dirs/my_teacher/epoch_300.pth")
    assert OTHERS not in _make(tmp_path, STUDENT, tmp_path / "my_teacher.py", "--data", data, *later)
    cfg = read_config(tmp_path / "my_config.py")
    assert "num_classes" not in cfg.model.teacher and build_model(cfg, "teacher").bbox_head.num_classes == 10
    # So does a student's, with what it changes.
    call_tool("make_config.py", STUDENT, "--data", data, "--out", tmp_path / "my_student.py")
    with open(tmp_path / "my_student.py", "a") as file:
        file.write("model = dict(neck=dict(num_csp_blocks=2))\n")
    _make(tmp_path, tmp_path / "my_student.py", tmp_path / "my_teacher.py", *later)
    cfg = read_config(tmp_path / "my_config.py")
    student = build_model(cfg)
    assert student.bbox_head.num_classes == 10 and len(student.neck.top_down_blocks[0].blocks) == 2
    assert cfg.val_cfg.type == "DistillValLoop" and cfg.val_dataloader.dataset.metainfo.classes == tuple("0123456789")


@pytest.mark.parametrize("classes", [tuple("9876543210"), None])
def test_a_teacher_that_learned_others(classes, tmp_path, data, weights):
    if classes is None:  # without names, but with other shapes
        weights = {**weights, "bbox_head.rtm_cls.0.bias": torch.zeros(80)}
    checkpoint = _checkpoint(tmp_path, weights, classes)
    assert OTHERS in _make(tmp_path, STUDENT, TEACHER, "--data", data, "--teacher-ckpt", checkpoint)
    assert "num_classes" not in read_config(tmp_path / "my_config.py").model.teacher


def test_crosskd_needs_a_teacher_with_the_classes(tmp_path, data):
    printed = _make(tmp_path, STUDENT, TEACHER, "--data", data, "--method", "crosskd", check=False)
    assert "got crosskd, which needs the classes of the data in the teacher's head" in printed


def test_a_mask_for_each_class_of_the_data(tmp_path):
    (tmp_path / "my_masks.py").write_text(MASKS.format(root=tmp_path))
    for split, folder in itertools.product(("train", "val"), ("images", "masks")):
        (tmp_path / split / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / split / folder / "0.png"), np.zeros((32, 32), np.uint8))
    pair = [f"segformer_mit-{size}_8xb2-160k_ade20k-512x512" for size in ("b0", "b1")]
    assert OTHERS in _make(tmp_path, *pair, "--data", tmp_path / "my_masks.py", "--method", "acamkd")
    (loss,) = read_config(tmp_path / "my_config.py").model.distiller.distill_losses.values()
    assert (loss.in_channels, loss.num_masks) == (512, 3)


def test_data_in_a_folder_need_no_file(tmp_path, mini_data):
    _make(tmp_path, STUDENT, "--data-root", mini_data, "--classes", "0,1,2,3,4,5,6,7,8,9")
    cfg = read_config(tmp_path / "my_config.py")
    assert cfg.train_dataloader.dataset.ann_file == "annotations/train.json"
    assert build_model(cfg).bbox_head.num_classes == 10
    more = ("--data-root", mini_data, "--classes", "0,1")
    printed = call_tool("make_config.py", tmp_path / "my_config.py", *more, check=False).stdout
    assert "which has own_data already. Leave the option out." in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([STUDENT], "got no teacher, expected one"),
        ([STUDENT, "--data-root", "."], "--data-root, --classes: got one of them, expected both"),
        ([STUDENT, "--data", "a.py", "--data-root", ".", "--classes", "a"], "got both, expected one of them"),
        ([STUDENT, "--data", "absent.py"], "--data: got absent.py, expected an existing file"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message, tmp_path):
    assert message in _make(tmp_path, *arguments, check=False)
    assert not (tmp_path / "my_config.py").exists()
