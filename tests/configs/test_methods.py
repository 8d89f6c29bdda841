"""Tests that a method's recipe differs from CanKD's in the method alone, has its published weights, and trains."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmrazor.registry import MODELS

from cankd.openmmlab.compat import CLASSIFICATION
from cankd.openmmlab.configs import read_config
from cankd.openmmlab.engine.runner import Runner
from tests.configs.stock_models import recipes_of
from tests.conftest import ROOT, run_python
from tests.demo import options_for, records_of
from tests.train_recipe import overlay

DISTILL = ROOT / "configs" / "distill"
RETINANET, FASTER_RCNN = "retinanet_r101_retinanet_r50_2x_coco", "faster-rcnn_r101_faster-rcnn_r50_2x_coco"
REPPOINTS, GFL = "reppoints_x101_reppoints_r50_2x_coco", "gfl_r101_gfl_r50_1x_coco"
PSPNET = "pspnet_r101_pspnet_r18_80k_cityscapes"
# Pairs on which CanKD's tables list some of the methods only.
FCOS, FCOS_X101 = "fcos_r101_fcos_r50_2x_coco", "fcos_x101_retinanet_r50_1x_coco"
RETINANET_X101, CASCADE = "retinanet_x101_retinanet_r50_2x_coco", "cascade-mask-rcnn_x101_faster-rcnn_r50_2x_coco"
SWIN_S = "mask-rcnn_swin-s_retinanet_r50_2x_coco"
DINO, SWIN_L = "dino_r101_dino_r50_12e_coco", "dino_swin-l_dino_swin-b_12e_coco"
GROUNDING_DINO = "grounding-dino_r101_grounding-dino_r50_1x_coco"
PSPNET_DEEPLAB, DEEPLAB = (f"{teacher}_r101_deeplabv3_r18_80k_cityscapes" for teacher in ("pspnet", "deeplabv3"))

# Compared in test_own_recipes.py and test_zoo_recipes.py.
COMPARED_ELSEWHERE = recipes_of("own") | recipes_of("zoo")
# Pair -> the methods that have a recipe. CrossKD needs a head it knows, FGD needs boxes, and plain L2 on
# RepPoints is a row of CanKD's paper, in CanKD's folder.
FEATURES = ("acamkd", "cwd", "fbkd", "l2", "mgd", "pkd")
HARNESS = {
    RETINANET: (*FEATURES, "fgd", "crosskd-harness", "crosskd-pkd-harness"),
    FASTER_RCNN: (*FEATURES, "fgd"),
    REPPOINTS: ("acamkd", "cwd", "fbkd", "mgd", "pkd", "fgd"),
    GFL: (*FEATURES, "fgd", "crosskd-harness", "crosskd-pkd-harness", "crosskd-cankd-harness"),
    PSPNET: FEATURES,
}
LISTED = {
    FCOS: ("fgd",),
    FCOS_X101: ("pkd",),
    RETINANET_X101: ("fgd", "fbkd"),
    CASCADE: ("fgd", "fbkd"),
    SWIN_S: ("pkd",),
    DINO: ("cwd", "pkd"),
    SWIN_L: ("cwd",),
    GROUNDING_DINO: ("cwd", "pkd"),
    PSPNET_DEEPLAB: ("cwd", "mgd"),
    DEEPLAB: ("mgd",),
}
# Here CanKD's student inherits, and as published the rivals' does not.
ONLY_CANKD_INHERITS = (SWIN_S, DINO, SWIN_L, GROUNDING_DINO)


def _path(pair: str, method: str) -> Path:
    folder = "mmseg" if "cityscapes" in pair else "mmdet"
    point = "backbone" if folder == "mmseg" else "neck" if "dino" in pair else "fpn"
    if method.startswith("crosskd"):
        point = "head"
    elif (folder, method) == ("mmseg", "cwd"):
        point = "logits"
    return DISTILL / folder / method.split("-")[0] / f"{method}_{point}_{pair}.py"


@functools.lru_cache(maxsize=None)
def _config(pair: str, method: str) -> Config:
    return read_config(_path(pair, method))


RECIPES = [(pair, method) for pair, methods in {**HARNESS, **LISTED}.items() for method in methods]
# The others on LISTED pairs are compared, and were trained once: logfile/recipes.
TRAINED = [*((pair, method) for pair, methods in HARNESS.items() for method in methods), (DINO, "cwd")]
ONE_OF_EACH = [
    *((RETINANET, method) for method in ("acamkd", "cwd", "fbkd", "l2", "mgd", "pkd", "fgd", "crosskd-harness")),
    (PSPNET, "acamkd"),
]


def test_the_harness_is_complete():
    found = [
        path for path in DISTILL.rglob("*.py") if path.parent.name != "cankd" and path.stem not in COMPARED_ELSEWHERE
    ]
    assert sorted(found) == sorted(_path(*recipe) for recipe in RECIPES)


@pytest.mark.parametrize("recipe", RECIPES, ids="-".join)
def test_a_recipe_differs_from_cankd_s_in_the_method_alone(recipe):
    pair, method = recipe
    cfg, cankd = (_config(pair, name).to_dict() for name in (method, "cankd"))
    for name in ("method", "large_weights", "two_stage_weights", "pkd"):
        cfg.pop(name, None)
    if pair in ONLY_CANKD_INHERITS:
        assert cfg.pop("custom_hooks") == []
        cankd.pop("custom_hooks", None)
    for config in (cfg, cankd):
        config["model"].pop("distiller")
    if method.startswith("crosskd"):
        assert (cfg["model"].pop("type"), cankd["model"].pop("type")) == ("CrossKD", "PartialTeacherDistill")
    assert cfg == cankd


# Attributes of the built loss or connector, and how many levels, for one pair or else for any.
PUBLISHED: dict[Any, tuple[str, dict[str, Any], int]] = {
    "acamkd": ("ACAMKDLoss", {"in_channels": 256, "distill_weight": 1, "diversity_weight": 1}, 5),
    ("acamkd", PSPNET): ("ACAMKDLoss", {"in_channels": 2048, "distill_weight": 1, "diversity_weight": 1}, 1),
    "cwd": ("ChannelWiseDivergence", {"tau": 1, "loss_weight": 10}, 5),
    ("cwd", PSPNET): ("ChannelWiseDivergence", {"tau": 1, "loss_weight": 5}, 1),
    "fbkd": ("FBKDLoss", {"mask_l2_weight": 7e-5, "channel_weight": 4e-3, "spatial_weight": 4e-3, "loss_weight": 6}, 4),
    ("fbkd", FASTER_RCNN): ("FBKDLoss", {"nonloacl_weight": 7e-5, "loss_weight": 1}, 4),
    ("fbkd", PSPNET): ("FBKDLoss", {"nonloacl_weight": 7e-5, "loss_weight": 1}, 1),
    "fgd": ("FGDLoss", {"weights": (1e-3, 5e-4, 5e-4, 5e-6), "temperature": 0.5}, 5),
    ("fgd", FASTER_RCNN): ("FGDLoss", {"weights": (5e-5, 2.5e-5, 5e-5, 5e-7), "temperature": 0.5}, 4),
    ("fgd", REPPOINTS): ("FGDLoss", {"weights": (1.6e-3, 8e-4, 8e-4, 8e-6), "temperature": 0.5}, 5),
    "l2": ("FeatureMSELoss", {"loss_weight": 10}, 4),
    ("l2", PSPNET): ("FeatureMSELoss", {"loss_weight": 10}, 1),
    "mgd": ("MGDLoss", {"alpha_mgd": 2e-5}, 5),
    ("mgd", FASTER_RCNN): ("MGDLoss", {"alpha_mgd": 5e-7}, 4),
    ("mgd", PSPNET): ("MGDLoss", {"alpha_mgd": 2e-5}, 1),
    "pkd": ("PKDLoss", {"loss_weight": 6}, 4),
    ("pkd", REPPOINTS): ("PKDLoss", {"loss_weight": 10}, 4),
    ("pkd", PSPNET): ("PKDLoss", {"loss_weight": 6}, 1),
    ("fgd", FCOS): ("FGDLoss", {"weights": (1.6e-3, 8e-4, 8e-4, 8e-6), "temperature": 0.8}, 5),
    ("fgd", CASCADE): ("FGDLoss", {"weights": (5e-5, 2.5e-5, 5e-5, 5e-7), "temperature": 0.5}, 4),
    ("fbkd", CASCADE): ("FBKDLoss", {"nonloacl_weight": 7e-5, "loss_weight": 1}, 4),
    ("pkd", FCOS_X101): ("PKDLoss", {"loss_weight": 10, "resize_stu": True}, 4),
    ("pkd", SWIN_S): ("PKDLoss", {"loss_weight": 6, "resize_stu": True}, 4),
    ("cwd", DINO): ("ChannelWiseDivergence", {"tau": 1, "loss_weight": 10}, 3),
    ("pkd", DINO): ("PKDLoss", {"loss_weight": 6}, 3),
    ("cwd", SWIN_L): ("ChannelWiseDivergence", {"tau": 1, "loss_weight": 10}, 4),
    ("cwd", GROUNDING_DINO): ("ChannelWiseDivergence", {"tau": 1, "loss_weight": 10}, 3),
    ("pkd", GROUNDING_DINO): ("PKDLoss", {"loss_weight": 6}, 3),
    ("cwd", PSPNET_DEEPLAB): ("ChannelWiseDivergence", {"tau": 1, "loss_weight": 5}, 1),
    ("mgd", PSPNET_DEEPLAB): ("MGDLoss", {"alpha_mgd": 2e-5}, 1),
    ("mgd", DEEPLAB): ("MGDLoss", {"alpha_mgd": 2e-5}, 1),
    "crosskd-harness": ("", {}, 0),
    "crosskd-pkd-harness": ("PKDLoss", {"loss_weight": 6}, 4),
    "crosskd-cankd-harness": ("NLKDINLoss", {"loss_weight": 10}, 4),
}
MASKED_SHARE = {RETINANET: 0.65, FASTER_RCNN: 0.45, REPPOINTS: 0.65, GFL: 0.65}
MASKED_SHARE.update({PSPNET: 0.75, PSPNET_DEEPLAB: 0.75, DEEPLAB: 0.75})


@pytest.mark.parametrize("recipe", RECIPES, ids="-".join)
def test_a_recipe_has_the_published_weights_on_the_published_levels(recipe):
    pair, method = recipe
    kind, attributes, levels = PUBLISHED.get((method, pair), PUBLISHED[method])
    cfg = _config(pair, method).model.distiller
    distiller = MODELS.build(cfg)
    assert len(distiller.distill_losses) == levels
    assert list(distiller.loss_forward_mappings) == list(distiller.distill_losses)
    for level, (name, loss) in enumerate(distiller.distill_losses.items()):
        assert type(loss).__name__ == kind
        assert {key: getattr(loss, key) for key in attributes} == attributes
        if method == "acamkd":
            assert len(loss.channel_selectors) == len(loss.spatial_selectors) == (19 if pair == PSPNET else 6)
        records = [record for key, record in distiller.loss_forward_mappings[name].items() if key != "data_samples"]
        assert [record["from_student"] for record in records] == [True, False]
        assert {record.get("data_idx") for record in records} == {None if "cityscapes" in pair else level}
    if method == "mgd":
        assert {connector.lambda_mgd for connector in distiller.connectors.values()} == {MASKED_SHARE[pair]}


@pytest.fixture(scope="module")
def data(tmp_path_factory, run_tool) -> Path:
    """A folder with four images in COCO's and in Cityscapes' layout."""
    out = tmp_path_factory.mktemp("layouts")
    for layout in ("coco", "cityscapes"):
        run_tool("dataset_tools/make_mini.py", "--layout", layout, "--out", out / layout, "--train", 4, "--val", 2)
    return out


def _overlay(pair: str, data: Path, size: int) -> Config:
    MMLogger.get_current_instance().setLevel("WARNING")  # the initialisation of every tensor is logged
    return Config(overlay(_path(pair, "cankd"), data, size, data / "teachers"))


@functools.lru_cache(maxsize=1)
def _models(pair: str, data: Path) -> list[torch.nn.Module]:
    """Student and teacher, made once for all recipes of a pair."""
    cfg = _overlay(pair, data, 128)
    models = [MODELS.build(model) for model in (cfg.model.architecture, cfg.model.teacher)]
    for model in models:
        model.init_weights()
    return models


@functools.lru_cache(maxsize=2)
def _batches(pair: str, data: Path, size: int) -> list[dict]:
    return list(itertools.islice(Runner.build_dataloader(_overlay(pair, data, size).train_dataloader), 2))


def _checksum(model: torch.nn.Module) -> float:
    return sum(value.double().abs().sum().item() for value in model.state_dict().values())


@pytest.mark.slow
@pytest.mark.parametrize("recipe", TRAINED if CLASSIFICATION == "mmpretrain" else ONE_OF_EACH, ids="-".join)
def test_a_recipe_trains(recipe, data):
    pair, method = recipe
    # A copy: recorders leave their hooks, and with them all of an algorithm, in the models.
    student, teacher = copy.deepcopy(_models(pair, data))
    large = method == "fbkd" and pair != PSPNET  # it pools level 3 twice, for which 128 pixels are too few
    batches = copy.deepcopy(_batches(pair, data, 256 if large else 128))
    before = _checksum(teacher)
    model = _config(pair, method).model
    built = dict(type=model.type, distiller=model.distiller, architecture=student, teacher=teacher)
    algorithm = MODELS.build(built)
    algorithm.train()
    optim_wrapper = build_optim_wrapper(algorithm, _config(pair, method).optim_wrapper)
    for batch in batches:
        losses = algorithm.train_step(batch, optim_wrapper)
        assert all(torch.isfinite(loss) for loss in losses.values()), losses

    # What the distillation's own losses reach.
    algorithm.zero_grad(set_to_none=True)
    losses = algorithm(**algorithm.data_preprocessor(batches[0], True), mode="loss")
    parts = {name: loss for name, loss in losses.items() if not name.startswith("student.")}
    expected = [f"distill.{name}" for name in model.distiller.get("distill_losses", {})]
    expected += ["crosskd.loss_cls", "crosskd.loss_reg"] if model.type == "CrossKD" else []
    parts_of = {
        "acamkd": (".channel", ".spatial", ".diversity"),
        "fgd": (".foreground", ".background", ".attention", ".global"),
    }
    assert set(parts) == {name + part for name in expected for part in parts_of.get(method, ("",))}
    # Level 4 has a single position here, and a box may cover all of a coarse map.
    assert all(loss > 0 for name, loss in parts.items() if not re.search("fpn4|fpn[1-3].*ground", name)), parts
    sum(parts.values()).backward()
    reached = {
        name for name, parameter in algorithm.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }
    assert any(name.startswith("architecture.backbone.layer4") for name in reached)
    heads = {
        name.split(".")[1] for name in reached if name.startswith("architecture.") and "head" in name.split(".")[1]
    }
    if (pair, method) == (PSPNET, "cwd"):
        assert heads == {"decode_head"}
    else:
        assert heads == ({"bbox_head"} if model.type == "CrossKD" else set())
    for name, parameter in algorithm.distiller.named_parameters():
        # At a single position a softmax has nothing to choose, and MGD may mask all of a coarse map.
        if parameter.requires_grad and name.endswith("weight") and not re.search("fpn4|fpn3.generation", name):
            assert f"distiller.{name}" in reached, name
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    assert _checksum(teacher) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pair", "method", "loss"),
    [
        (RETINANET, "fgd", "distill.loss_fpn4.foreground"),
        (GFL, "crosskd-pkd", "crosskd.loss_reg"),
        (RETINANET, "acamkd-inherit", "distill.loss_fpn4.spatial"),
    ],
)
def test_the_command_trains_validates_and_saves(pair, method, loss, data, tmp_path):
    command = ["-m", "tests.train_recipe", _path(pair, method), data, 128, tmp_path / "run", data / "teachers"]
    done = run_python(*command, OMP_NUM_THREADS="1")
    records = records_of(tmp_path / "run")
    assert len(records) == 2 and "Epoch(val)" in done.stdout
    assert loss in records[1]["losses"] and f"{loss}: " in done.stdout
    assert ("Inherited from the teacher" in done.stdout) == ("inherit" in method)
    assert "teacher" not in records[1]["gradients"] and (tmp_path / "run" / "epoch_1.pth").exists()


@pytest.mark.slow
def test_the_example_of_a_method_of_one_s_own_trains(mini_data, tmp_path):
    page, lines = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8"), 0
    for name in ("my_method.py", "my_config.py"):
        example = re.search(rf"<!-- {name} -->\n```python\n(.*?)```\n<!-- end of {name} -->", page, re.S)
        assert example
        lines += len([line for line in example.group(1).splitlines() if line.strip()])
        (tmp_path / name).write_text(example.group(1).replace('"configs/', f'"{ROOT}/configs/'))
    assert lines <= 20
    options = options_for(mini_data, ROOT / "configs/demo/quickstart_teacher.pth", 2)
    command = ["tools/train.py", tmp_path / "my_config.py", "--work-dir", tmp_path / "run"]
    run_python(*command, *options, PYTHONPATH=f"{tmp_path}:{ROOT}")
    scalars = next((tmp_path / "run").glob("*/vis_data/scalars.json")).read_text().splitlines()
    logged = [json.loads(line) for line in scalars]
    assert 0 < logged[0]["distill.loss_fpn3"] < 4
    assert (tmp_path / "run" / "iter_2.pth").exists()
