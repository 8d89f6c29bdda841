"""The printed configuration is the resolved one, names the file of each value, and can be run in the recipe's place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmrazor.registry import MODELS

from cankd.openmmlab.commands.print_config import main
from cankd.openmmlab.config_sources import bases_of, resolve
from cankd.openmmlab.configs import read_config
from cankd.openmmlab.models.stock import expand_stock_model
from tests.configs.stock_models import without_scopes
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
    assert without_scopes(printed) == without_scopes(expected) and next(iter(printed)) == "model"
    text = file.read_text()
    assert max(map(len, text.splitlines())) <= 120 and text.count("_scope_") <= 3
    assert "StockModel" not in text and "LevelDistiller" not in str(printed["model"])


def test_each_value_has_the_file_that_sets_it(monkeypatch):
    monkeypatch.chdir(ROOT)
    options = {"model.distiller.distill_losses.loss_fpn0.loss_weight": 5, "optim_wrapper.optimizer.lr": 1}
    config, sources, files = resolve(CONFIGS / MU2, options)
    losses = ("model", "distiller", "distill_losses")
    assert config["model"]["distiller"]["distill_losses"]["loss_fpn0"]["loss_weight"] == 5
    expected = {
        (*losses, "loss_fpn0", "loss_weight"): "--cfg-options",
        (*losses, "loss_fpn1", "loss_weight"): f"configs/{MU2}",
        (*losses, "loss_fpn1", "type"): FPN,
        (*losses, "loss_fpn1", "in_channels"): f"configs/{MU2}",  # derived from the models that it names
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
    }
    assert {place: sources[place] for place in expected} == expected
    assert set(sources.values()) <= set(files) and files[-2:] == [f"configs/{MU2}", "--cfg-options"]


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (
            "crosskd/crosskd-pkd_head_gfl_r101_gfl_r50_1x_coco.py",
            {
                "model.type": "crosskd/crosskd_head_gfl_r101_gfl_r50_1x_coco.py",
                "model.teacher_ckpt": "crosskd/crosskd_head_gfl_r101_gfl_r50_1x_coco.py",
                "model.distiller.distill_losses.loss_fpn4.loss_weight": "crosskd/"
                "crosskd-pkd_head_gfl_r101_gfl_r50_1x_coco.py",
                "model.architecture.backbone.depth": "mmdet::gfl/gfl_r50_fpn_1x_coco.py",
                "train_dataloader.batch_size": "mmdet::gfl/gfl_r50_fpn_1x_coco.py",
            },
        ),
        (
            "cwd/cwd_neck_dino_swin-l_dino_swin-b_12e_coco.py",
            {
                "model.type": "configs/_base_/dino_neck.py",
                "model.distiller.student_recorders.neck.source": "configs/_base_/dino_neck.py",
                "model.distiller.distill_losses.loss_neck3.tau": "cwd/cwd_neck_dino_swin-l_dino_swin-b_12e_coco.py",
                "model.distiller.loss_forward_mappings.loss_neck3.preds_S.data_idx": "cwd/"
                "cwd_neck_dino_swin-l_dino_swin-b_12e_coco.py",
                "model.architecture.backbone.embed_dims": "cankd/cankd_neck_dino_swin-l_dino_swin-b_12e_coco.py",
                "optim_wrapper.optimizer.lr": "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py",
            },
        ),
    ],
    ids=["crosskd", "dino"],
)
def test_a_replaced_stock_model_is_the_recipes(recipe, expected, monkeypatch):
    monkeypatch.chdir(ROOT)
    config, sources, _ = resolve(CONFIGS / "distill/mmdet" / recipe)
    assert not {"crosskd", "distiller"} & set(config)
    found = {key: sources[tuple(key.split("."))] for key in expected}
    assert {key: source.replace("configs/distill/mmdet/", "") for key, source in found.items()} == expected


def test_a_difference_from_a_stock_model_is_the_recipes(monkeypatch):
    monkeypatch.chdir(ROOT)
    name = "distill/mmdet/cankd/cankd_fpn_fcos_r101_fcos_r50_2x_coco.py"
    config, sources, _ = resolve(CONFIGS / name)
    head = ("model", "architecture", "bbox_head")
    assert config["model"]["architecture"]["bbox_head"]["norm_on_bbox"] is True
    assert sources[head + ("norm_on_bbox",)] == f"configs/{name}"
    assert sources[head + ("num_classes",)] == "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py"


def test_a_part_is_printed(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = _printed(capsys, f"configs/{MU2}", "--only", "model.distiller.distill_losses.loss_fpn1")
    files = re.findall(r"^# \[(\d+)\] (.*)$", text, flags=re.MULTILINE)
    assert [int(number) for number, _ in files] == list(range(1, len(files) + 1))
    numbers = {file: number for number, file in files}
    base, recipe = numbers[FPN], numbers[f"configs/{MU2}"]
    assert text.endswith(
        "\nloss_fpn1 = dict(\n"
        f"    type='NLKDINLoss',  # [{base}]\n"
        f"    in_channels=256,  # [{recipe}]\n"
        f"    loss_weight=4,  # [{recipe}]\n"
        ")\n"
    )
    text = _printed(capsys, f"cankd::{MU2}", "--only", "find_unused_parameters")
    assert text.endswith(f"\nfind_unused_parameters = True  # [{base}]\n")
    with pytest.raises(SystemExit, match="--only: got model.distillr, expected a key"):
        main([f"configs/{MU2}", "--only", "model.distillr"])


def test_every_printed_line_of_a_mixed_dict_has_its_file(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = _printed(capsys, "configs/demo/quickstart_cankd.py", "--only", "model.architecture.neck")
    (student,) = re.findall(r"^# (\[\d+\]) configs/demo/quickstart_student.py$", text, flags=re.MULTILINE)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    # What the student's own file resolves to is one file's.
    assert lines[0] == f"neck = dict(  # {student}" and not any("#" in line for line in lines[1:])
    optimizer = _printed(capsys, f"configs/{MU2}", "--only", "optim_wrapper").splitlines()
    optimizer = [line for line in optimizer if not line.startswith("#")]
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
    head = "# Read in this order; a later file changes what an earlier one set:\n# [1] "
    Path("mine.py").write_text("model = dict(type='Mine', keys={'a.b': (1,), 'c': []}, far=float('inf'))\n")
    line = "model = dict(type='Mine', keys={'a.b': (1,), 'c': []}, far=float('inf'))  # [1]\n"
    assert _printed(capsys, "mine.py") == f"{head}mine.py\n{line}"
    stock = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
    assert _printed(capsys, stock, "--only", "train_cfg.max_epochs") == f"{head}{stock}\nmax_epochs = 12  # [1]\n"


def test_bases_of_yaml_and_of_computed_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("base.json").write_text('{"model": {"type": "Mine", "depth": 1}}')
    Path("middle.yaml").write_text("_base_: ./base.json\nmodel:\n  width: 2\n")
    Path("mine.py").write_text("_base_ = ['./middle.yaml']\nmodel = dict(height=3)\n")
    _, sources, files = resolve("mine.py")
    assert files == ["base.json", "middle.yaml", "mine.py"]
    found = {place[-1]: source for place, source in sources.items()}
    assert found == {"type": "base.json", "depth": "base.json", "width": "middle.yaml", "height": "mine.py"}
    Path("computed.py").write_text("name = 'middle'\n_base_ = [f'./{name}.yaml']\n")
    with pytest.raises(ValueError, match=r"computed.py: got _base_ = \[f'./\{name\}.yaml'\], expected strings"):
        bases_of(Path("computed.py"))
