"""Compares CrossKD's and ACAM-KD's recipes with tables of their published settings."""

from __future__ import annotations

from typing import Any

import pytest
from mmdet.models.dense_heads import ATSSHead, FCOSHead, GFLHead, RetinaHead
from mmrazor.registry import MODELS

from cankd.openmmlab.algorithms.crosskd import ADAPTERS
from cankd.openmmlab.configs import read_config
from tests.configs.stock_models import (
    DET,
    DISTILL,
    DL_MV2,
    DL_R18,
    DL_R101,
    LAYER4,
    PSP_R18,
    SEG,
    differences_from,
    published_weights,
    stock_config_of,
    without_scopes,
)

GFL_R50, GFL_R101 = "gfl/gfl_r50_fpn_1x_coco", "gfl/gfl_r101_fpn_ms-2x_coco"
RETINA_R18, RETINA_R50 = (f"retinanet/retinanet_r{depth}_fpn_1x_coco" for depth in (18, 50))
RETINA_R50_2X, RETINA_R101_2X = (f"retinanet/retinanet_r{depth}_fpn_2x_coco" for depth in (50, 101))
FCOS_R50, FCOS_R101 = (f"fcos/fcos_r{depth}-caffe_fpn_gn-head_ms-640-800-2x_coco" for depth in (50, 101))
ATSS_R50, ATSS_R101 = (f"atss/atss_r{depth}_fpn_1x_coco" for depth in (50, 101))
ON_OUTPUT: dict[tuple, Any] = {("neck", "add_extra_convs"): "on_output"}
R18_BACKBONE: dict[tuple, Any] = {
    ("backbone", "depth"): 18,
    ("backbone", "init_cfg", "checkpoint"): "torchvision://resnet18",
    ("neck", "in_channels"): [64, 128, 256, 512],
}
V2 = "https://download.openmmlab.com/mmdetection/v2.0/"
# Leaf of CrossKD without PKD -> stock student and what differs, stock teacher, its checkpoint, epochs, images on each
# GPU, and the weight of PKD beside it, None where there is no such recipe.
_CROSSKD: dict[str, tuple] = {
    "gfl_r101_gfl_r50_1x_coco": (
        *(GFL_R50, {}, GFL_R101),
        *(f"{V2}gfl/gfl_r101_fpn_mstrain_2x_coco/gfl_r101_fpn_mstrain_2x_coco_20200629_200126-dd12f847.pth", 12, 2, 6),
    ),
    "retinanet_r101_retinanet_r50_2x_coco": (
        *(RETINA_R50_2X, ON_OUTPUT, RETINA_R101_2X),
        *(f"{V2}retinanet/retinanet_r101_fpn_2x_coco/retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth", 24, 2, 2),
    ),
    "fcos_r101_fcos_r50_2x_coco": (
        *(FCOS_R50, {}, FCOS_R101),
        f"{V2}fcos/fcos_r101_caffe_fpn_gn-head_mstrain_640-800_2x_coco/"
        "fcos_r101_caffe_fpn_gn-head_mstrain_640-800_2x_coco-511424d6.pth",
        *(24, 2, 2),
    ),
    "atss_r101_atss_r50_1x_coco": (
        *(ATSS_R50, {}, ATSS_R101),
        *(f"{V2}atss/atss_r101_fpn_1x_coco/atss_r101_fpn_1x_20200825-dfcadd6f.pth", 12, 8, 1),
    ),
    "gfl_r50_gfl_r18_1x_coco": (
        *(GFL_R50, R18_BACKBONE, GFL_R50),
        *(f"{V2}gfl/gfl_r50_fpn_1x_coco/gfl_r50_fpn_1x_coco_20200629_121244-25944287.pth", 12, 2, None),
    ),
    "retinanet_r50_retinanet_r18_1x_coco": (
        *(RETINA_R50, {**R18_BACKBONE, **ON_OUTPUT}, RETINA_R50),
        *(f"{V2}retinanet/retinanet_r50_fpn_1x_coco/retinanet_r50_fpn_1x_coco_20200130-c2398f9e.pth", 12, 2, None),
    ),
    "retinanet_swin-t_retinanet_r50_1x_coco": (
        *(RETINA_R50, ON_OUTPUT, "swin/retinanet_swin-t-p4-w7_fpn_1x_coco"),
        *("work_dirs/retinanet_swin-t-p4-w7_fpn_1x_coco/epoch_12.pth", 12, 2, None),
    ),
}
CROSSKD = {f"crosskd_head_{name}": (*row[:-1], None) for name, row in _CROSSKD.items()}
CROSSKD.update({f"crosskd-pkd_head_{name}": row for name, row in _CROSSKD.items() if row[-1]})

# Leaf of ACAM-KD's detectors -> stock student and teacher, and what differs in its losses.
RETINANET = ("retinanet/retinanet_r50_fpn_2x_coco", "retinanet/retinanet_r101_fpn_2x_coco")
REPPOINTS_R50 = "reppoints/reppoints-moment_r50_fpn-gn_head-gn_2x_coco"
ACAMKD: dict[str, tuple[str, str, dict[str, Any]]] = {
    "acamkd-inherit_fpn_retinanet_r101_retinanet_r50_2x_coco": (*RETINANET, {}),
    "acamkd-inherit_fpn_faster-rcnn_r101_faster-rcnn_r50_2x_coco": (
        *("faster_rcnn/faster-rcnn_r50_fpn_2x_coco", "faster_rcnn/faster-rcnn_r101_fpn_2x_coco", {}),
    ),
    "acamkd-inherit_fpn_reppoints_r101_reppoints_r50_2x_coco": (
        *(REPPOINTS_R50, "reppoints/reppoints-moment_r101_fpn-gn_head-gn_2x_coco", {}),
    ),
    "acamkd-inherit_fpn_retinanet_x101_retinanet_r50_2x_coco": (
        *(RETINANET[0], "retinanet/retinanet_x101-64x4d_fpn_1x_coco", {}),
    ),
    "acamkd-inherit_fpn_reppoints_x101_reppoints_r50_2x_coco": (
        *(REPPOINTS_R50, "reppoints/reppoints-moment_x101-dconv-c3-c5_fpn-gn_head-gn_2x_coco", {}),
    ),
}
_MASKS: dict[str, dict[str, Any]] = {
    "spatial": {"channel_masks": False},
    "channel": {"spatial_masks": False},
    "student-query": {"query": "student"},
    "fixed": {"mask_source": "fixed_teacher"},
    "teacher": {"mask_source": "teacher"},
}
for _kind, _arguments in _MASKS.items():
    ACAMKD[f"acamkd-inherit-{_kind}_fpn_retinanet_r101_retinanet_r50_2x_coco"] = (*RETINANET, _arguments)
# Leaf of ACAM-KD's segmenters -> stock student, its recorder and its channels.
SEGMENTATION = {
    "acamkd_backbone_deeplabv3_r101_deeplabv3_r18_40k_cityscapes": (DL_R18, *LAYER4),
    "acamkd_backbone_deeplabv3_r101_deeplabv3_mv2_40k_cityscapes": (DL_MV2, "backbone.layer7", 320),
    "acamkd_backbone_deeplabv3_r101_pspnet_r18_40k_cityscapes": (PSP_R18, *LAYER4),
}


def test_crosskd_has_the_published_weights_and_starts():
    assert {kind: (adapter.start, adapter.weights) for kind, adapter in ADAPTERS.items()} == {
        GFLHead: (3, {"cls": 1, "reg": 4}),
        RetinaHead: (3, {"cls": 1, "reg": 1}),
        FCOSHead: (2, {"cls": 0.4, "reg": 0.75}),
        ATSSHead: (3, {"cls": 1, "reg": 1, "centerness": 1}),
    }


@pytest.mark.parametrize("name", sorted(CROSSKD))
def test_crosskd_recipe(name):
    student, differences, teacher, checkpoint, epochs, batch, pkd = CROSSKD[name]
    cfg = read_config(DISTILL / "mmdet" / "crosskd" / f"{name}.py")
    # Weights and start are the class's defaults.
    assert set(cfg.model) == {"_scope_", "type", "architecture", "teacher", "teacher_ckpt", "distiller"}
    assert cfg.model.type == "CrossKD"
    assert differences_from(cfg.model.architecture, DET.format(student)) == differences
    assert differences_from(cfg.model.teacher, DET.format(teacher)) == {}
    assert cfg.model.teacher_ckpt == checkpoint
    assert "work_dirs" in checkpoint or checkpoint == published_weights(cfg.model)
    if pkd is None:
        assert cfg.model.distiller == {"type": "ConfigurableDistiller"}
    else:
        levels = range(5)
        distiller = cfg.model.distiller
        assert distiller.distill_losses == {f"loss_fpn{i}": {"type": "PKDLoss", "loss_weight": pkd} for i in levels}
        assert distiller.loss_forward_mappings == {
            f"loss_fpn{i}": {
                "preds_S": {"recorder": "fpn", "from_student": True, "data_idx": i},
                "preds_T": {"recorder": "fpn", "from_student": False, "data_idx": i},
            }
            for i in levels
        }
        recorders = {"fpn": {"type": "ModuleOutputs", "source": "neck"}}
        assert distiller.student_recorders == distiller.teacher_recorders == recorders

    assert cfg.optim_wrapper.optimizer == dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=1e-4)
    assert cfg.auto_scale_lr == dict(enable=True, base_batch_size=16) and cfg.train_dataloader.batch_size == batch
    fcos = "fcos" in name
    clip = dict(max_norm=35, norm_type=2) if fcos else None
    assert cfg.optim_wrapper.get("clip_grad") == clip
    biases = dict(bias_lr_mult=2, bias_decay_mult=0) if fcos else None
    assert cfg.optim_wrapper.get("paramwise_cfg") == biases
    warm_up, steps = ({key: s.get(key) for key in s if key != "_scope_"} for s in cfg.param_scheduler)
    start = dict(type="ConstantLR", factor=1 / 3) if fcos else dict(type="LinearLR", start_factor=0.001)
    assert warm_up == dict(start, by_epoch=False, begin=0, end=500)
    milestones = {12: [8, 11], 24: [16, 22]}[epochs]
    assert steps == dict(type="MultiStepLR", begin=0, end=epochs, by_epoch=True, milestones=milestones, gamma=0.1)
    assert cfg.train_cfg.max_epochs == epochs and cfg.val_cfg.type == "ValLoop"
    assert "find_unused_parameters" not in cfg and "custom_hooks" not in cfg
    assert cfg.default_hooks.checkpoint.type == "DistillCheckpointHook"

    data = stock_config_of("mmdet::_base_/datasets/coco_detection.py")
    data.train_dataloader.batch_size = batch
    if fcos:
        resize = dict(type="RandomChoiceResize", scales=[(1333, 640), (1333, 800)], keep_ratio=True)
        data.train_dataloader.dataset.pipeline[2] = resize
    for key in ("train_dataloader", "val_dataloader", "val_evaluator", "test_evaluator"):
        assert without_scopes(cfg[key]) == without_scopes(data[key]), key


def _built(config: dict, arguments: dict[str, Any]) -> None:
    """Checks that the loss of a configuration has the printed formula and weights."""
    loss = MODELS.build(config)
    assert loss.diversity == "ratio" and (loss.distill_weight, loss.diversity_weight) == (1, 1)
    assert loss.normalization == "weights" and not loss.instance_norm
    assert loss.teacher_queries == (arguments.get("query") != "student")
    assert (loss.fusion is not None) == ("mask_source" not in arguments)
    assert loss.learns == (arguments.get("mask_source") != "fixed_teacher")
    for kind in ("channel", "spatial"):
        assert (getattr(loss, f"{kind}_selectors") is not None) == arguments.get(f"{kind}_masks", True)


@pytest.mark.parametrize("name", sorted(ACAMKD))
def test_acamkd_recipe(name):
    student, teacher, arguments = ACAMKD[name]
    cfg = read_config(DISTILL / "mmdet" / "acamkd" / f"{name}.py")
    assert cfg.model.type == "PartialTeacherDistill" and cfg.custom_hooks == [{"type": "InheritTeacherHook"}]
    assert differences_from(cfg.model.architecture, DET.format(student)) == {}
    assert differences_from(cfg.model.teacher, DET.format(teacher)) == {}
    assert cfg.model.teacher_ckpt == published_weights(cfg.model)
    loss = {"type": "ACAMKDLoss", "in_channels": 256, "num_masks": 6, **arguments}
    assert cfg.model.distiller.distill_losses == {f"loss_fpn{level}": loss for level in range(5)}
    _built(cfg.model.distiller.distill_losses.loss_fpn0, arguments)
    assert cfg.model.distiller.loss_forward_mappings == {
        f"loss_fpn{level}": {
            "s_feature": {"recorder": "fpn", "from_student": True, "data_idx": level},
            "t_feature": {"recorder": "fpn", "from_student": False, "data_idx": level},
        }
        for level in range(5)
    }
    assert cfg.optim_wrapper.optimizer == dict(type="SGD", lr=0.005, momentum=0.9, weight_decay=1e-4)
    assert cfg.train_cfg.max_epochs == 24 and cfg.train_dataloader.batch_size == 2


@pytest.mark.parametrize("name", sorted(SEGMENTATION))
def test_acamkd_segmentation_recipe(name):
    student, source, channels = SEGMENTATION[name]
    cfg = read_config(DISTILL / "mmseg" / "acamkd" / f"{name}.py")
    assert differences_from(cfg.model.architecture, SEG.format(student)) == {}
    assert differences_from(cfg.model.teacher, SEG.format(DL_R101)) == {}
    assert cfg.model.teacher_ckpt == published_weights(cfg.model)
    distiller = cfg.model.distiller
    assert distiller.student_recorders.backbone.source == source
    assert distiller.teacher_recorders.backbone.source == "backbone.layer4"
    assert (distiller.connectors.backbone.in_channel, distiller.connectors.backbone.out_channel) == (channels, 2048)
    assert distiller.distill_losses == {"loss_backbone": dict(type="ACAMKDLoss", in_channels=2048, num_masks=19)}
    _built(distiller.distill_losses.loss_backbone, {})
    assert cfg.optim_wrapper.optimizer == dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=5e-4)
    (poly,) = cfg.param_scheduler
    assert poly == dict(type="PolyLR", eta_min=1e-4, power=0.9, begin=0, end=40000, by_epoch=False)
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (40000, 4000)
    assert cfg.default_hooks.checkpoint.interval == 4000 and cfg.train_dataloader.batch_size == 2
    assert "custom_hooks" not in cfg
