"""The printed configuration is the resolved one, names the file of each value, and can be run in the recipe's place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmrazor.registry import MODELS

from cankd.openmmlab.commands.print_config import main
from cankd.openmmlab.config_sources import resolve
from cankd.openmmlab.configs import read_config
from cankd.openmmlab.models.stock import expand_stock_model
from tests.conftest import ROOT

CONFIGS = ROOT / "configs"
MU2 = "distill/mmdet/cankd/cankd-mu2_fpn_reppoints_x101_reppoints_r50_2x_coco.py"
FPN, SCHEDULE = "configs/_base_/fpn.py", "configs/_base_/detection_coco_2x.py"
RECIPES = [
    MU2,
    "distill/mmdet/cwd/cwd_neck_dino_swin-l_dino_swin-b_12e_coco.py",
    "distill/mmdet/crosskd/crosskd-pkd_head_fcos_r101_fcos_r50_2x_coco.py",
    "distill/mmseg/acamkd/acamkd_backbone_deeplabv3_r101_deeplabv3_mv2_40k_cityscapes.py",
    "distill/mmpretrain/cankd/cankd_backbone_resnet50_mobilenet-v1_8xb32_in1k.py",
    "teachers/retinanet_swin-t-p4-w7_fpn_1x_coco.py",
    "demo/quickstart_teacher.py",
]


def _printed(capsys, *arguments: str) -> str:
    main(arguments)
    return capsys.readouterr().out


@pytest.mark.parametrize("name", RECIPES)
def test_the_printed_configuration_is_the_resolved_one(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    file = tmp_path / "printed.py"
    file.write_text(_printed(capsys, str(CONFIGS / name)))
    printed, expected = Config.fromfile(file).to_dict(), read_config(CONFIGS / name).to_dict()
    model = expected["model"]
    models = [(model, key) for key in ("architecture", "teacher") if key in model] or [(expected, "model")]
    for parent, key in models:
        if parent[key]["type"].endswith("StockModel"):
            parent[key] = expand_stock_model(parent[key])
    assert printed == expected
    assert "StockModel" not in file.read_text() and "LevelDistiller" not in str(printed["model"])


def test_each_value_has_the_file_that_sets_it(monkeypatch):
    monkeypatch.chdir(ROOT)
    options = {"model.distiller.distill_losses.loss_fpn0.loss_weight": 5, "optim_wrapper.optimizer.lr": 1}
    config, sources = resolve(CONFIGS / MU2, options)
    losses = ("model", "distiller", "distill_losses")
    assert config["model"]["distiller"]["distill_losses"]["loss_fpn0"]["loss_weight"] == 5
    expected = {
        (*losses, "loss_fpn0", "loss_weight"): "--cfg-options",
        (*losses, "loss_fpn1", "loss_weight"): f"configs/{MU2}",
        (*losses, "loss_fpn1", "in_channels"): FPN,
        ("model", "distiller", "loss_forward_mappings", "loss_fpn3", "s_feature", "data_idx"): FPN,
        ("model", "teacher", "backbone", "groups"): "mmdet::reppoints/"
        "reppoints-moment_x101-dconv-c3-c5_fpn-gn_head-gn_2x_coco.py",
        ("model", "teacher_ckpt"): f"configs/{MU2}",
        ("val_cfg", "type"): SCHEDULE,
        ("train_cfg", "max_epochs"): "mmdet::_base_/schedules/schedule_2x.py",
        ("optim_wrapper", "clip_grad", "max_norm"): SCHEDULE,
        ("optim_wrapper", "optimizer", "lr"): "--cfg-options",
        ("optim_wrapper", "optimizer", "type"): "mmdet::_base_/schedules/schedule_2x.py",
        ("train_dataloader", "dataset", "type"): "mmdet::_base_/datasets/coco_detection.py",
        ("train_dataloader", "dataset", "_scope_"): "mmdet::_base_/datasets/coco_detection.py",
    }
    assert {place: sources[place] for place in expected} == expected


def test_a_difference_from_a_stock_model_is_the_recipes(monkeypatch):
    monkeypatch.chdir(ROOT)
    name = "distill/mmdet/cankd/cankd_fpn_fcos_r101_fcos_r50_2x_coco.py"
    config, sources = resolve(CONFIGS / name)
    head = ("model", "architecture", "bbox_head")
    assert config["model"]["architecture"]["bbox_head"]["norm_on_bbox"] is True
    assert sources[head + ("norm_on_bbox",)] == f"configs/{name}"
    assert sources[head + ("num_classes",)] == "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py"


def test_a_part_is_printed(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = _printed(capsys, f"configs/{MU2}", "--only", "model.distiller.distill_losses.loss_fpn1")
    assert text == (
        "loss_fpn1 = dict(\n"
        f"    type='NLKDINLoss',  # {FPN}\n"
        f"    in_channels=256,  # {FPN}\n"
        f"    loss_weight=4,  # configs/{MU2}\n"
        ")\n"
    )
    text = _printed(capsys, f"cankd::{MU2}", "--only", "find_unused_parameters")
    assert text == f"find_unused_parameters = True  # {FPN}\n"
    with pytest.raises(SystemExit, match="--only: got model.distillr, expected a key"):
        main([f"configs/{MU2}", "--only", "model.distillr"])


def test_every_printed_line_of_a_mixed_dict_has_its_file(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    lines = _printed(capsys, "configs/demo/quickstart_cankd.py", "--only", "model.architecture.neck").splitlines()
    # What the student's own file resolves to is one file's.
    assert lines[0] == "neck = dict(  # configs/demo/quickstart_student.py" and not any(
        "#" in line for line in lines[1:]
    )
    optimizer = _printed(capsys, f"configs/{MU2}", "--only", "optim_wrapper").splitlines()
    open_lines = [line for line in optimizer if not re.search(r"(dict\(|^\s*\),?)$", line)]
    assert open_lines and all("  # " in line for line in open_lines)


def test_the_printed_configuration_builds_the_same_models(tmp_path, capsys):
    name = CONFIGS / "demo/quickstart_cankd.py"
    file = tmp_path / "printed.py"
    file.write_text(_printed(capsys, str(name)))
    models = [MODELS.build({**read_config(path).model, "teacher_ckpt": None}) for path in (name, file)]
    shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in models]
    assert shapes[0] == shapes[1]


def test_a_configuration_without_bases_and_one_of_a_library(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("model = dict(type='Mine', keys={'a.b': (1,), 'c': []})\n")
    assert _printed(capsys, "mine.py") == "model = dict(type='Mine', keys={'a.b': (1,), 'c': []})  # mine.py\n"
    stock = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
    assert _printed(capsys, stock, "--only", "train_cfg.max_epochs") == f"max_epochs = 12  # {stock}\n"
