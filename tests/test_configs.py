"""Every leaf against what the published runs used; the table stands apart from the configurations."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import yaml
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import DefaultScope
from mmrazor.registry import MODELS

from cankd.models.stock import stock_config
from tests.conftest import ROOT

DISTILL = ROOT / "configs" / "distill"
DET = "mmdet::{}.py"
SEG = "mmseg::{}.py"

RETINA_R50 = "retinanet/retinanet_r50_fpn_2x_coco"
RETINA_R50_1X = "retinanet/retinanet_r50_fpn_1x_coco"
FASTER_R50 = "faster_rcnn/faster-rcnn_r50_fpn_2x_coco"
REPPOINTS_R50 = "reppoints/reppoints-moment_r50_fpn-gn_head-gn_2x_coco"
REPPOINTS_X101 = "reppoints/reppoints-moment_x101-dconv-c3-c5_fpn-gn_head-gn_2x_coco"
FCOS_R50 = "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco"
PSP_R101 = "pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024"
DL_R101 = "deeplabv3/deeplabv3_r101-d8_4xb2-80k_cityscapes-512x1024"
DL_R18 = "deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024"

# Leaf of mmdet -> student, teacher (stock), end of the teacher's checkpoint, epochs, loss arguments
# beyond in_channels=256 and loss_weight=10, dagger.
R101, X101 = "retinanet_r101_fpn_2x_coco_20200131-5560aee8", "retinanet_x101_64x4d_fpn_1x_coco_20200130-366f5af1"
FASTER = "faster_rcnn_r101_fpn_2x_coco_bbox_mAP-0.398_20200504_210455-1d2dac9c"
FCOS = "fcos_r101_caffe_fpn_gn-head_mstrain_640-800_2x_coco-511424d6"
CASCADE = "cascade_mask_rcnn_x101_64x4d_fpn_20e_coco_20200512_161033-bdb5126a"
REPPOINTS = "reppoints_moment_x101_fpn_dconv_c3-c5_gn-neck%2Bhead_2x_coco_20200329-f87da1ea"
_PAIRS: dict[str, tuple] = {
    "retinanet_r101_retinanet_r50_2x_coco": (RETINA_R50, "retinanet/retinanet_r101_fpn_2x_coco", R101, 24),
    "faster-rcnn_r101_faster-rcnn_r50_2x_coco": (FASTER_R50, "faster_rcnn/faster-rcnn_r101_fpn_2x_coco", FASTER, 24),
    "fcos_r101_fcos_r50_2x_coco": (FCOS_R50, "fcos/fcos_r101-caffe_fpn_gn-head_ms-640-800-2x_coco", FCOS, 24),
    "retinanet_x101_retinanet_r50_2x_coco": (RETINA_R50, "retinanet/retinanet_x101-64x4d_fpn_1x_coco", X101, 24),
    "cascade-mask-rcnn_x101_faster-rcnn_r50_2x_coco": (
        FASTER_R50,
        "cascade_rcnn/cascade-mask-rcnn_x101-64x4d_fpn_20e_coco",
        CASCADE,
        24,
    ),
    "reppoints_x101_reppoints_r50_2x_coco": (REPPOINTS_R50, REPPOINTS_X101, REPPOINTS, 24),
}
DETECTION: dict[str, tuple] = {}
for _name, _row in _PAIRS.items():
    DETECTION[f"cankd_fpn_{_name}"] = (*_row, {}, None)
    DETECTION[f"cankd-dagger_fpn_{_name}"] = (*_row, {}, {})
for _name, _loss in {
    "cankd-gaussian": {"affinity": "gaussian"},
    "cankd-embedded-gaussian": {"affinity": "embedded_gaussian"},
    "cankd-concatenation": {"affinity": "concatenation"},
    "cankd-mu2": {"loss_weight": 4},
    "cankd-mu8": {"loss_weight": 16},
    "cankd-mu10": {"loss_weight": 20},
    "cankd-pool4": {"pool_size": 4},
    "cankd-pool8": {"pool_size": 8},
    "cankd-no-residual": {"residual": False},
    "l2": {"type": "FeatureMSELoss", "in_channels": None},
    "in-l2": {"type": "FeatureMSELoss", "in_channels": None, "instance_norm": True},
}.items():
    DETECTION[f"{_name}_fpn_reppoints_x101_reppoints_r50_2x_coco"] = (
        *_PAIRS["reppoints_x101_reppoints_r50_2x_coco"],
        _loss,
        None,
    )
DETECTION.update(
    {
        "cankd_fpn_fcos_x101_retinanet_r50_1x_coco": (
            RETINA_R50_1X,
            "fcos/fcos_x101-64x4d_fpn_gn-head_ms-640-800-2x_coco",
            "fcos_x101_64x4d_fpn_gn-head_mstrain_640-800_2x_coco-ede514a8",
            12,
            {},
            None,
        ),
        "cankd_fpn_mask-rcnn_swin-s_retinanet_r50_2x_coco": (
            RETINA_R50,
            "swin/mask-rcnn_swin-s-p4-w7_fpn_amp-ms-crop-3x_coco",
            "mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-3x_coco_20210903_104808-b92c91f1",
            24,
            {"align": True},
            {"modules": ["neck"]},
        ),
        "cankd_fpn_gfl_r101_retinanet_r50_1x_coco": (
            RETINA_R50_1X,
            "gfl/gfl_r101_fpn_ms-2x_coco",
            "gfl_r101_fpn_mstrain_2x_coco_20200629_200126-dd12f847",
            12,
            {},
            None,
        ),
        "cankd_fpn_faster-rcnn_x101_retinanet_r50_1x_coco": (
            RETINA_R50_1X,
            "faster_rcnn/faster-rcnn_x101-32x4d_fpn_1x_coco",
            "faster_rcnn_x101_32x4d_fpn_1x_coco_20200203-cff10310",
            12,
            {"align": True},
            None,
        ),
    }
)
# Leaf of mmseg -> student, teacher, end of the checkpoint, loss weight, student's recorder, its channels.
PSP_CKPT = "pspnet_r101-d8_512x1024_80k_cityscapes_20200606_112211-e1e1100f"
DL_CKPT = "deeplabv3_r101-d8_512x1024_80k_cityscapes_20200606_113503-9e428899"
PSP_R18 = "pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024"
DL_MV2 = "mobilenet_v2/mobilenet-v2-d8_deeplabv3_4xb2-80k_cityscapes-512x1024"
LAYER4 = ("backbone.layer4", 512)
SEGMENTATION: dict[str, tuple] = {
    "cankd_backbone_pspnet_r101_pspnet_r18_80k_cityscapes": (PSP_R18, PSP_R101, PSP_CKPT, 10, *LAYER4),
    "cankd_backbone_pspnet_r101_deeplabv3_r18_80k_cityscapes": (DL_R18, PSP_R101, PSP_CKPT, 20, *LAYER4),
    "cankd-mu2_backbone_pspnet_r101_deeplabv3_r18_80k_cityscapes": (DL_R18, PSP_R101, PSP_CKPT, 4, *LAYER4),
    "cankd-mu5_backbone_pspnet_r101_deeplabv3_r18_80k_cityscapes": (DL_R18, PSP_R101, PSP_CKPT, 10, *LAYER4),
    "cankd-mu8_backbone_pspnet_r101_deeplabv3_r18_80k_cityscapes": (DL_R18, PSP_R101, PSP_CKPT, 16, *LAYER4),
    "cankd_backbone_deeplabv3_r101_deeplabv3_r18_80k_cityscapes": (DL_R18, DL_R101, DL_CKPT, 10, *LAYER4),
    "cankd_backbone_deeplabv3_r101_deeplabv3_mv2_80k_cityscapes": (
        DL_MV2,
        DL_R101,
        DL_CKPT,
        10,
        "backbone.layer7",
        320,
    ),
}
FCOS_DIFFERENCES = {
    ("bbox_head", "norm_on_bbox"): True,
    ("bbox_head", "center_sampling"): True,
    ("bbox_head", "conv_bias"): True,
    ("bbox_head", "centerness_on_reg"): False,
    ("bbox_head", "dcn_on_last_conv"): False,
    ("bbox_head", "loss_bbox", "type"): "GIoULoss",
    ("test_cfg", "nms", "iou_threshold"): 0.6,
}


def _flat(config: Any, path: tuple = ()) -> dict[tuple, Any]:
    if isinstance(config, dict):
        return {key: value for name, part in config.items() for key, value in _flat(part, (*path, name)).items()}
    return {path: config}


@functools.lru_cache(maxsize=None)
def _stock(name: str) -> dict[tuple, Any]:
    return _flat(get_config(name).model.to_dict())


def _differences(model: dict, stock: str) -> dict[tuple, Any]:
    model = {key: value for key, value in model.items() if key != "type"}
    with DefaultScope.overwrite_default_scope(stock.split("::")[0]):
        mine = _flat(Config(stock_config(**model)).to_dict())
    assert set(_stock(stock)) <= set(mine)
    return {key: value for key, value in mine.items() if key not in _stock(stock) or _stock(stock)[key] != value}


def test_every_leaf_is_in_the_table_and_in_the_metafile():
    leaves = {path.stem: path for path in DISTILL.rglob("*.py")}
    assert set(leaves) == set(DETECTION) | set(SEGMENTATION)
    models = yaml.safe_load((ROOT / "configs" / "metafile.yml").read_text(encoding="utf-8"))["models"]
    assert sorted(m["config"] for m in models) == sorted(
        str(path.relative_to(ROOT / "configs")) for path in leaves.values()
    )
    for model in models:
        assert (model["measured"] is None) == (model["log"] is None)


@pytest.mark.parametrize("path", sorted(DISTILL.rglob("*.py")), ids=lambda path: path.stem)
def test_leaves_are_short_and_name_no_machine(path):
    text = path.read_text()
    assert len([line for line in text.splitlines() if line.strip()]) <= 25
    assert not any(f"/{root}/" in text for root in ("home", "root", "data", "mnt", "Users"))


@pytest.mark.parametrize("name", sorted(DETECTION))
def test_detection_leaf(name):
    student, teacher, checkpoint, epochs, loss_differences, dagger = DETECTION[name]
    cfg = Config.fromfile(DISTILL / "mmdet" / "cankd" / f"{name}.py")
    assert cfg.model.type == "FpnTeacherDistill"
    assert _differences(cfg.model.architecture, DET.format(student)) == (
        FCOS_DIFFERENCES if student == FCOS_R50 else {}
    )
    assert _differences(cfg.model.teacher, DET.format(teacher)) == {}
    assert cfg.model.teacher_ckpt.startswith("https://download.openmmlab.com/mmdetection/v2.0/")
    assert cfg.model.teacher_ckpt.endswith(f"/{checkpoint}.pth")
    distiller = cfg.model.distiller
    for recorders in (distiller.student_recorders, distiller.teacher_recorders):
        assert recorders == {"fpn": {"type": "ModuleOutputs", "source": "neck"}}
    expected = {"type": "NLKDINLoss", "in_channels": 256, "loss_weight": 10, **loss_differences}
    expected = {key: value for key, value in expected.items() if value is not None}
    assert distiller.distill_losses == {f"loss_fpn{level}": expected for level in range(4)}
    for level in range(4):
        assert distiller.loss_forward_mappings[f"loss_fpn{level}"] == {
            "s_feature": {"recorder": "fpn", "from_student": True, "data_idx": level},
            "t_feature": {"recorder": "fpn", "from_student": False, "data_idx": level},
        }
    assert cfg.get("custom_hooks") == (None if dagger is None else [{"type": "InheritTeacherHook", **dagger}])
    optimizer = dict(type="SGD", lr=0.005, momentum=0.9, weight_decay=1e-4)
    assert cfg.optim_wrapper.optimizer == optimizer and cfg.optim_wrapper.type == "OptimWrapper"
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=35, norm_type=2)
    assert cfg.train_dataloader.batch_size == 2 and cfg.find_unused_parameters is True
    assert cfg.train_cfg.max_epochs == epochs
    stock = get_config(f"mmdet::_base_/schedules/schedule_{epochs // 12}x.py").param_scheduler
    fields = ("type", "start_factor", "begin", "end", "milestones", "gamma", "by_epoch")
    assert [{k: s.get(k) for k in fields} for s in cfg.param_scheduler] == [
        {k: s.get(k) for k in fields} for s in stock
    ]
    assert cfg.val_cfg.type == "mmrazor.SingleTeacherDistillValLoop"
    data = get_config("mmdet::_base_/datasets/coco_detection.py")
    for key in ("train_dataloader", "val_dataloader", "val_evaluator", "test_evaluator"):
        assert _plain(cfg[key]) == _plain(data[key]), key


@pytest.mark.parametrize("name", sorted(SEGMENTATION))
def test_segmentation_leaf(name):
    student, teacher, checkpoint, weight, source, channels = SEGMENTATION[name]
    cfg = Config.fromfile(DISTILL / "mmseg" / "cankd" / f"{name}.py")
    assert cfg.model.type == "SingleTeacherDistill"
    assert _differences(cfg.model.architecture, SEG.format(student)) == {}
    assert _differences(cfg.model.teacher, SEG.format(teacher)) == {}
    assert cfg.model.teacher_ckpt.endswith(f"/{checkpoint}.pth")
    distiller = cfg.model.distiller
    assert distiller.student_recorders == {"backbone": {"type": "ModuleOutputs", "source": source}}
    assert distiller.teacher_recorders == {"backbone": {"type": "ModuleOutputs", "source": "backbone.layer4"}}
    connector = dict(type="ConvModuleConnector", in_channel=channels, out_channel=2048, norm_cfg=None, act_cfg=None)
    assert distiller.connectors == {"backbone": connector}
    loss = dict(type="NLKDINLoss", in_channels=2048, loss_weight=weight)
    assert distiller.distill_losses == {"loss_backbone": loss}
    assert cfg.optim_wrapper.optimizer == dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=5e-4)
    assert cfg.train_cfg.max_iters == 80000 and cfg.train_cfg.val_interval == 8000
    assert cfg.default_hooks.checkpoint.interval == 8000
    assert cfg.train_dataloader.batch_size == 2
    data = get_config("mmseg::_base_/datasets/cityscapes.py")
    for key in ("train_dataloader", "val_dataloader", "val_evaluator", "test_evaluator"):
        assert _plain({**cfg[key], "batch_size": 0}) == _plain({**data[key], "batch_size": 0}), key


def _plain(config: Any) -> Any:
    """Without the scopes that mmengine notes in what it inherits."""
    if isinstance(config, dict):
        return {key: _plain(value) for key, value in config.items() if key != "_scope_"}
    return [_plain(part) for part in config] if isinstance(config, (list, tuple)) else config


def _distinct(table: dict, folder: str) -> list[Path]:
    """One leaf for each pair of student and teacher."""
    pairs = {row[:2]: DISTILL / folder / "cankd" / f"{name}.py" for name, row in sorted(table.items(), reverse=True)}
    return sorted(pairs.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [*_distinct(DETECTION, "mmdet"), *_distinct(SEGMENTATION, "mmseg")], ids=lambda path: path.stem
)
def test_every_pair_builds_and_its_recorders_find_their_modules(path):
    cfg = Config.fromfile(path)
    cfg.model.teacher_ckpt = None
    algorithm = MODELS.build(cfg.model)
    for side, model in (("student", algorithm.student), ("teacher", algorithm.teacher)):
        for recorder in cfg.model.distiller[f"{side}_recorders"].values():
            assert recorder.source in dict(model.named_modules())
    assert not any(parameter.requires_grad for parameter in algorithm.teacher.parameters())
