"""The recipes of pairs beyond the paper: what they name, that the compared maps fit, and that each family trains."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from mmengine.config import Config
from mmrazor.registry import MODELS

import tests.recording  # noqa: F401  (registers the hook)
from cankd.openmmlab.compat import CLASSIFICATION
from cankd.openmmlab.configs import read_config
from cankd.openmmlab.engine import Runner
from cankd.openmmlab.pairing import load_side
from tests.configs.stock_models import (
    DISTILL,
    differences_from,
    published_weights,
    recipes_of,
    stock_config_of,
    without_scopes,
)
from tests.demo import records_of
from tests.train_recipe import overlay


class Pair(NamedTuple):
    """A student, its teacher, the channels of their maps, and which maps each loss compares."""

    student: str
    teacher: str
    channels: tuple[int, int]
    maps: dict[str, tuple[int, int]]
    source: str = "neck"


RTMDET = "mmdet::rtmdet/rtmdet_{}_8xb32-300e_coco.py"
RTMDET_INS = "mmdet::rtmdet/rtmdet-ins_{}_8xb32-300e_coco.py"
YOLOX = "mmdet::yolox/yolox_{}_8xb8-300e_coco.py"
MASK_RCNN = "mmdet::mask_rcnn/mask-rcnn_{}_fpn_2x_coco.py"
SEGFORMER = "mmseg::segformer/segformer_mit-{}_8xb1-160k_cityscapes-1024x1024.py"
PIDNET = "mmseg::pidnet/pidnet-{}_2xb6-120k_1024x1024-cityscapes.py"
CHANNELS = {"tiny": 96, "s": 128, "m": 192, "l": 256, "x": 320}  # of RTMDet's necks
STEPS = (("tiny", "s"), ("s", "m"), ("m", "l"), ("l", "x"))
NECK = {f"loss_neck{level}": (level, level) for level in range(3)}
CANKD: dict[str, Pair] = {
    **{
        f"cankd_neck_rtmdet-{teacher}_rtmdet-{student}_300e_coco": Pair(
            RTMDET.format(student), RTMDET.format(teacher), (CHANNELS[student], CHANNELS[teacher]), NECK
        )
        for student, teacher in STEPS
    },
    "cankd_neck_dino-swin-l_rtmdet-s_300e_coco": Pair(
        RTMDET.format("s"),
        "mmdet::dino/dino-5scale_swin-l_8xb2-36e_coco.py",
        (128, 256),
        {f"loss_neck{level}": (level, level + 1) for level in range(3)},
    ),
    "cankd_neck_yolox-l_yolox-s_300e_coco": Pair(YOLOX.format("s"), YOLOX.format("l"), (128, 256), NECK),
    "cankd_fpn_mask-rcnn_r101_mask-rcnn_r50_2x_coco": Pair(
        MASK_RCNN.format("r50"),
        MASK_RCNN.format("r101"),
        (256, 256),
        {f"loss_fpn{level}": (level, level) for level in range(4)},
    ),
    "cankd_neck_rtmdet-ins-s_rtmdet-ins-tiny_300e_coco": Pair(
        RTMDET_INS.format("tiny"), RTMDET_INS.format("s"), (96, 128), NECK
    ),
    "cankd_backbone_segformer-b4_segformer-b0_160k_cityscapes": Pair(
        SEGFORMER.format("b0"), SEGFORMER.format("b4"), (256, 512), {"loss_backbone3": (3, 3)}, "backbone"
    ),
    "cankd_backbone_pidnet-l_pidnet-s_120k_cityscapes": Pair(
        PIDNET.format("s"), PIDNET.format("l"), (128, 256), {"loss_backbone1": (1, 1)}, "backbone"
    ),
}
CWD = {
    f"cwd-norm_neck_rtmdet-{teacher}_rtmdet-{student}_300e_coco": CANKD[
        f"cankd_neck_rtmdet-{teacher}_rtmdet-{student}_300e_coco"
    ]
    for student, teacher in STEPS
}
VIT = "cankd_backbone_vit-b16_pspnet_r18_80k_cityscapes"


def _path(name: str) -> Path:
    (path,) = DISTILL.rglob(f"{name}.py")
    return path


@functools.lru_cache(maxsize=None)
def _config(name: str) -> Config:
    return read_config(_path(name))


def test_every_recipe_is_in_the_table():
    assert recipes_of("zoo") == {*CANKD, *CWD, VIT}


@pytest.mark.parametrize("name", [*CANKD, *CWD])
def test_a_recipe_is_the_student_s_own_with_a_distillation(name):
    pair, cfg = {**CANKD, **CWD}[name], _config(name)
    assert cfg.model.type == "PartialTeacherDistill" and cfg.find_unused_parameters is True
    assert differences_from(cfg.model.architecture, pair.student) == {}
    assert differences_from(cfg.model.teacher, pair.teacher) == {}
    assert cfg.model.teacher_ckpt == published_weights(cfg.model)
    assert cfg.default_hooks.checkpoint.type == "DistillCheckpointHook"
    stock = stock_config_of(pair.student)
    for key in set(stock) - {"model", "default_hooks", "data_preprocessor"}:
        assert without_scopes(cfg[key]) == without_scopes(stock[key]), key
    # mmengine would give the distillation a data_preprocessor that stands beside the model.
    assert cfg.get("data_preprocessor") is None
    assert cfg.model.get("teacher_preprocess", False) == ("dino" in name)


@pytest.mark.parametrize("name", CANKD)
def test_cankd_compares_the_maps_of_equal_stride(name):
    pair, distiller = CANKD[name], _config(name).model.distiller
    (recorder,) = distiller.student_recorders
    for recorders in (distiller.student_recorders, distiller.teacher_recorders):
        assert recorders == {recorder: {"type": "ModuleOutputs", "source": pair.source}}
    student, teacher = pair.channels
    loss = {"type": "NLKDINLoss", "in_channels": teacher, "loss_weight": 10}
    assert distiller.distill_losses == dict.fromkeys(pair.maps, loss)
    found = {}
    for key, inputs in distiller.loss_forward_mappings.items():
        found[key] = inputs.s_feature.data_idx, inputs.t_feature.data_idx
        assert (inputs.s_feature.get("connector") is None) == (student == teacher)
    assert found == pair.maps
    convolution = dict(type="ConvModuleConnector", in_channel=student, out_channel=teacher, norm_cfg=None, act_cfg=None)
    assert all(connector == convolution for connector in distiller.get("connectors", {}).values())


@pytest.mark.parametrize("name", CWD)
def test_cwd_has_mmyolo_s_settings(name):
    cfg = _config(name)
    student, teacher = CWD[name].channels
    norm = dict(type="BN", affine=False, track_running_stats=False)
    convolution = dict(type="ConvModuleConnector", in_channel=student, out_channel=teacher, bias=False, act_cfg=None)
    recorders = {
        f"neck{level}": {"type": "ModuleOutputs", "source": f"neck.out_convs.{level}.conv"} for level in range(3)
    }
    distiller = cfg.model.distiller
    assert distiller.student_recorders == distiller.teacher_recorders == recorders
    assert distiller.distill_losses == dict.fromkeys(NECK, dict(type="ChannelWiseDivergence", loss_weight=1))
    for level in range(3):
        assert distiller.connectors[f"Student{level}"] == dict(convolution, norm_cfg=norm)
        assert distiller.connectors[f"Teacher{level}"] == dict(type="NormConnector", in_channels=teacher, norm_cfg=norm)
        assert distiller.loss_forward_mappings[f"loss_neck{level}"] == dict(
            preds_S=dict(recorder=f"neck{level}", from_student=True, connector=f"Student{level}"),
            preds_T=dict(recorder=f"neck{level}", from_student=False, connector=f"Teacher{level}"),
        )
    assert cfg.default_hooks.stop == dict(type="mmrazor.StopDistillHook", stop_epoch=280)


def test_vit_recipe():
    cfg, without = _config(VIT), _config("cankd_backbone_pspnet_r101_pspnet_r18_80k_cityscapes")
    assert cfg.model.architecture == without.model.architecture and cfg.model.teacher_preprocess
    if CLASSIFICATION == "mmpretrain":  # mmengine's own function does not know mmcls's name of the teacher
        assert differences_from(cfg.model.teacher, cfg.model.teacher.cfg) == {}
        assert cfg.model.teacher_ckpt == published_weights(cfg.model)
    distiller = cfg.model.distiller
    assert distiller.teacher_recorders.backbone.source == "backbone.ln1"
    assert distiller.connectors.Teacher == dict(type="TokensToMap", patch_size=16)
    assert distiller.connectors.backbone.out_channel == 768
    assert distiller.distill_losses.loss_backbone == dict(
        type="NLKDINLoss", in_channels=768, loss_weight=10, align=True
    )
    assert cfg.val_cfg.type == "ValLoop"
    for key in ("train_dataloader", "val_evaluator", "optim_wrapper", "param_scheduler", "train_cfg"):
        assert cfg[key] == without[key], key


@functools.lru_cache(maxsize=None)
def _shapes(config: str) -> dict[str, dict[tuple, tuple]]:
    return load_side(config, outline=True).found.shapes


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CANKD, *CWD])
def test_the_compared_maps_fit_the_connectors_and_the_losses(name):
    pair = {**CANKD, **CWD}[name]
    distiller = MODELS.build(_config(name).model.distiller)
    for loss, inputs in distiller.loss_forward_mappings.items():
        maps = []
        for record, model in zip(inputs.values(), (pair.student, pair.teacher)):
            side = "student" if record["from_student"] else "teacher"
            shapes = _shapes(model)[getattr(distiller, f"{side}_recorders").get_recorder(record["recorder"]).source]
            # While it predicts, PIDNet returns one map.
            place = (0, record["data_idx"]) if "data_idx" in record else (0,)
            feature = torch.rand(2, *shapes[place][1:])
            maps.append(distiller.connectors[record["connector"]](feature) if "connector" in record else feature)
        assert maps[0].shape == maps[1].shape
        assert distiller.distill_losses[loss](*maps).isfinite()


# Of recipes that differ in the models' widths alone the smallest is trained. RTMDet and YOLOX with CanKD are trained in
# test_make_config.py, Mask R-CNN in test_instance_masks.py.
TRAINED: dict[str, dict[str, Any]] = {
    "cwd-norm_neck_rtmdet-s_rtmdet-tiny_300e_coco": {},
    "cankd_neck_dino-swin-l_rtmdet-s_300e_coco": dict(
        backbone=dict(embed_dims=48, depths=[1, 1, 1, 1], num_heads=[3, 6, 12, 24]),
        neck=dict(in_channels=[48, 96, 192, 384]),
    ),
    "cankd_neck_rtmdet-ins-s_rtmdet-ins-tiny_300e_coco": {},
    "cankd_backbone_segformer-b4_segformer-b0_160k_cityscapes": dict(backbone=dict(num_layers=[1, 1, 1, 1])),
    "cankd_backbone_pidnet-l_pidnet-s_120k_cityscapes": {},
    VIT: dict(
        backbone=dict(arch=dict(embed_dims=768, num_layers=1, num_heads=12, feedforward_channels=768)),
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory, run_tool) -> Path:
    """A folder with four images in COCO's and in Cityscapes' layout."""
    out = tmp_path_factory.mktemp("layouts")
    for layout in ("coco", "cityscapes"):
        run_tool("dataset_tools/make_mini.py", "--layout", layout, "--out", out / layout, "--train", 4, "--val", 2)
    return out


def _train(name: str, data: Path, work_dir: Path, **changes: Any) -> list[dict]:
    """Trains a recipe with small batches and a narrow teacher at random weights; returns what each iteration logged."""
    cfg = overlay(_path(name), data, 128, None, batch_size=2)
    for part, differences in TRAINED[name].items():
        cfg["model"]["teacher"].setdefault(part, {}).update(differences)
    cfg["train_dataloader"]["dataset"]["indices"] = 4
    cfg.update(work_dir=str(work_dir), val_cfg=None, val_dataloader=None, val_evaluator=None)
    cfg.update(test_cfg=None, test_dataloader=None, test_evaluator=None)
    for key, values in changes.items():
        cfg[key].update(values)
    Runner.from_cfg(Config(cfg)).train()
    return records_of(work_dir)


# On the paper's stack one of them is trained.
FAMILIES = [name for name in TRAINED if not name.startswith("cwd")]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES if CLASSIFICATION == "mmpretrain" else FAMILIES[:1])
def test_a_family_trains(name, data, tmp_path):
    records = _train(name, data, tmp_path)
    losses = {f"distill.{loss}" for loss in _config(name).model.distiller.distill_losses}
    for record in records:
        assert losses == {key for key in record["losses"] if key.startswith("distill.")}
        assert all(math.isfinite(value) for value in record["losses"].values())
        assert all(record["losses"][key] > 0 for key in losses) and "teacher" not in record["gradients"]
    last = records[-1]["gradients"]
    reached = [key for key in last if key.startswith("distiller.connectors.") and key.endswith("weight")]
    assert reached and all(last[key] > 0 for key in reached)


@pytest.mark.slow
def test_mmyolo_s_recipe_ends_the_distillation_before_the_student_s_last_epochs(data, tmp_path):
    name = "cwd-norm_neck_rtmdet-s_rtmdet-tiny_300e_coco"
    hooks = {"stop": dict(_config(name).default_hooks.stop, stop_epoch=1)}
    records = _train(name, data, tmp_path, default_hooks=hooks, train_cfg={"max_epochs": 2})
    distilled = [{key for key in record["losses"] if key.startswith("distill.")} for record in records]
    half = len(records) // 2
    assert distilled == [{f"distill.{loss}" for loss in NECK}] * half + [set()] * half
    assert all(0 < records[0]["losses"][f"distill.{loss}"] < math.inf for loss in NECK)
    connectors = [key for key in records[0]["gradients"] if key.startswith("distiller.connectors.Student")]
    assert len(connectors) == 3  # the convolutions; the norms have no weights
