"""Compares every recipe with a table of the settings of the published runs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml
from mmrazor.registry import MODELS

from cankd.openmmlab.config_sources import bases_of
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
    flat,
    published_weights,
    recipes_of,
    stock_config_of,
    without_scopes,
)
from tests.conftest import ROOT
from tests.train_recipe import tiny_bert

RETINA_R50 = "retinanet/retinanet_r50_fpn_2x_coco"
RETINA_R50_1X = "retinanet/retinanet_r50_fpn_1x_coco"
FASTER_R50 = "faster_rcnn/faster-rcnn_r50_fpn_2x_coco"
REPPOINTS_R50 = "reppoints/reppoints-moment_r50_fpn-gn_head-gn_2x_coco"
REPPOINTS_X101 = "reppoints/reppoints-moment_x101-dconv-c3-c5_fpn-gn_head-gn_2x_coco"
FCOS_R50 = "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco"
PSP_R101 = "pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024"

# Leaf of mmdet -> student, teacher (stock), end of the teacher's checkpoint, epochs, loss arguments
# beyond in_channels=256 and loss_weight=10, arguments of the hook that inherits (None: none).
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
    DETECTION[f"cankd-inherit_fpn_{_name}"] = (*_row, {}, {})
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
        "cankd_fpn_gfl_r101_gfl_r50_1x_coco": (
            "gfl/gfl_r50_fpn_1x_coco",
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
# Leaf of a DETR -> stock student and what differs, stock teacher and what differs, end of the teacher's
# checkpoint, levels, what is inherited, epochs, step, learning rate, images for each GPU, per-parameter keys.
DINO = "dino/dino-4scale_r50_8xb2-12e_coco"
SWIN_L = "dino/dino-5scale_swin-l_8xb2-"
GDINO = "grounding_dino/grounding_dino_r50_scratch_8xb2_1x_coco"
DEFORMABLE = "deformable_detr/deformable-detr_r50_16xb2-50e_coco"
R101_BACKBONE = {("backbone", "depth"): 101}
SWIN_B = {
    ("backbone", "embed_dims"): 128,
    ("backbone", "num_heads"): [4, 8, 16, 32],
    ("backbone", "drop_path_rate"): 0.3,
    ("backbone", "init_cfg", "checkpoint"): "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
    "swin_base_patch4_window12_384_22k.pth",
    ("neck", "in_channels"): [128, 256, 512, 1024],
}
DETR: dict[str, tuple] = {
    "cankd_neck_dino_r101_dino_r50_12e_coco": (
        *(DINO, {("backbone", "frozen_stages"): -1}, DINO, R101_BACKBONE),
        *("dino-4scale_r101_8xb2-12e_coco/epoch_12", 3),
        {"modules": ["neck", "encoder", "decoder"], "lasting": False},
        *(12, 11, 1e-4, 2, {"backbone": {"lr_mult": 0.1}}),
    ),
    "cankd_neck_dino_swin-l_dino_swin-b_12e_coco": (
        *(f"{SWIN_L}12e_coco", SWIN_B, f"{SWIN_L}36e_coco", {}),
        *("dino-5scale_swin-l_8xb2-36e_coco-5486e051", 4, {"modules": ["encoder", "decoder"], "lasting": False}),
        *(12, 11, 1e-4, 1, {"backbone": {"lr_mult": 0.1}}),
    ),
    "cankd_neck_grounding-dino_r101_grounding-dino_r50_1x_coco": (
        *(GDINO, {}, GDINO, R101_BACKBONE),
        *("grounding-dino_r101_scratch_8xb2_1x_coco/epoch_12", 3, None),
        *(12, 11, 1e-4, 2, {"absolute_pos_embed": {"decay_mult": 0.0}, "backbone": {"lr_mult": 0.1}}),
    ),
    "cankd_neck_deformable-detr_r101_deformable-detr_r50_50e_coco": (
        *(DEFORMABLE, {}, DEFORMABLE, R101_BACKBONE),
        *("deformable-detr_r101_16xb2-50e_coco/epoch_50", 3, None),
        *(50, 40, 2e-4, 2, {name: {"lr_mult": 0.1} for name in ("backbone", "sampling_offsets", "reference_points")}),
    ),
}
# What lasts in the same recipes where everything does that the published files meant to inherit.
DETR_INHERIT = {
    "dino_r101_dino_r50_12e_coco": ["neck", "encoder", "decoder", "bbox_head"],
    "dino_swin-l_dino_swin-b_12e_coco": ["encoder", "decoder", "bbox_head"],
    "grounding-dino_r101_grounding-dino_r50_1x_coco": ["bbox_head"],
}
OBJECTS365 = "cankd-inherit_fpn_retinanet_r101_retinanet_r50_1x_objects365v2"
# Leaf of a classifier -> what differs from the stock ResNet-18, stock teacher, end of the checkpoint,
# student's recorder, its channels, the teacher's.
CLASSIFICATION: dict[str, tuple] = {
    "cankd_backbone_resnet34_resnet18_8xb32_in1k": (
        *({}, "resnet/resnet34_8xb32_in1k", "resnet34_8xb32_in1k_20210831-f257d4e6", "backbone.layer4", 512, 512),
    ),
    "cankd_backbone_resnet50_mobilenet-v1_8xb32_in1k": (
        {("backbone", "type"): "mmrazor.MobileNetV1", ("head", "in_channels"): 1024},
        *("resnet/resnet50_8xb32_in1k", "resnet50_8xb32_in1k_20210831-ea4938fc", "backbone.stages.4", 1024, 2048),
    ),
}
# The configuration that trains a teacher whose checkpoint nobody published -> the stock one it extends.
TEACHERS = {
    "dino-4scale_r101_8xb2-12e_coco": DINO,
    "grounding-dino_r101_scratch_8xb2_1x_coco": GDINO,
    "deformable-detr_r101_16xb2-50e_coco": DEFORMABLE,
    "retinanet_r101_fpn_1x_objects365v2": "objects365/retinanet_r50_fpn_1x_objects365v2",
    "retinanet_swin-t-p4-w7_fpn_1x_coco": "swin/retinanet_swin-t-p4-w7_fpn_1x_coco",
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


def test_every_recipe_is_in_the_table_and_in_the_metafile():
    recipes = {path.stem: path for path in DISTILL.glob("*/cankd/*.py")}
    inherits = {f"cankd-inherit_neck_{name}" for name in DETR_INHERIT}
    papers = {*DETECTION, *SEGMENTATION, *DETR, *inherits, OBJECTS365, *CLASSIFICATION}
    assert set(recipes) - recipes_of("zoo") == papers
    models = yaml.safe_load((ROOT / "configs" / "metafile.yml").read_text(encoding="utf-8"))["models"]
    assert sorted(m["config"] for m in models) == sorted(
        str(path.relative_to(ROOT / "configs")) for path in DISTILL.rglob("*.py")
    )
    for model in models:
        assert (model["measured"] is None) == (model["log"] is None)


@pytest.mark.parametrize("path", sorted(DISTILL.rglob("*.py")), ids=lambda path: path.stem)
def test_recipes_are_short_and_name_no_machine(path):
    text = path.read_text()
    assert len([line for line in text.splitlines() if line.strip()]) <= 25
    assert not any(f"/{root}/" in text for root in ("home", "root", "data", "mnt", "Users"))


def _files(path: Path) -> set[Path]:
    """A configuration and all of the files here that it inherits from."""
    return {path}.union(*(_files(Path(base)) for base in bases_of(path) if "::" not in base))


@pytest.mark.parametrize("path", sorted(DISTILL.rglob("*.py")), ids=lambda path: path.stem)
def test_a_recipe_is_understood_from_three_files(path):
    files = _files(path)
    assert 1 <= len(files) <= 3
    for file in files:  # values are written out; what a base made is merged, neither copied nor changed
        text = file.read_text()
        assert len(text.splitlines()) <= 25 and "{{" not in text
        code = ast.parse(text)
        assert all(isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Name) for part in code.body)
        calls = [part for part in ast.walk(code) if isinstance(part, ast.Call)]
        assert all(isinstance(call.func, ast.Name) and call.func.id == "dict" and not call.args for call in calls)
        assert all(keyword.arg for call in calls for keyword in call.keywords)  # no **
        names = [part.id for part in ast.walk(code) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)]
        assert "_base_" not in names


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(DISTILL.glob("*/cankd/*.py")), ids=lambda path: path.stem)
def test_checkpoints_leave_the_teacher_out(path):
    assert read_config(path).default_hooks.checkpoint.type == "DistillCheckpointHook"


@pytest.mark.parametrize("name", sorted(DETECTION))
def test_detection_recipe(name):
    student, teacher, checkpoint, epochs, loss_differences, inherit = DETECTION[name]
    cfg = read_config(DISTILL / "mmdet" / "cankd" / f"{name}.py")
    assert cfg.model.type == "PartialTeacherDistill"
    assert differences_from(cfg.model.architecture, DET.format(student)) == (
        FCOS_DIFFERENCES if student == FCOS_R50 else {}
    )
    assert differences_from(cfg.model.teacher, DET.format(teacher)) == {}
    assert cfg.model.teacher_ckpt.endswith(f"/{checkpoint}.pth") and cfg.model.teacher_ckpt == published_weights(
        cfg.model
    )
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
    assert cfg.get("custom_hooks") == (None if inherit is None else [{"type": "InheritTeacherHook", **inherit}])
    optimizer = dict(type="SGD", lr=0.005, momentum=0.9, weight_decay=1e-4)
    assert cfg.optim_wrapper.optimizer == optimizer and cfg.optim_wrapper.type == "OptimWrapper"
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=35, norm_type=2)
    assert cfg.train_dataloader.batch_size == 2 and cfg.find_unused_parameters is True
    assert cfg.train_cfg.max_epochs == epochs
    stock = stock_config_of(f"mmdet::_base_/schedules/schedule_{epochs // 12}x.py").param_scheduler
    fields = ("type", "start_factor", "begin", "end", "milestones", "gamma", "by_epoch")
    assert [{k: s.get(k) for k in fields} for s in cfg.param_scheduler] == [
        {k: s.get(k) for k in fields} for s in stock
    ]
    assert cfg.val_cfg.type == "DistillValLoop"
    data = stock_config_of("mmdet::_base_/datasets/coco_detection.py")
    for key in ("train_dataloader", "val_dataloader", "val_evaluator", "test_evaluator"):
        assert without_scopes(cfg[key]) == without_scopes(data[key]), key


@pytest.mark.parametrize("name", sorted(SEGMENTATION))
def test_segmentation_recipe(name):
    student, teacher, checkpoint, weight, source, channels = SEGMENTATION[name]
    cfg = read_config(DISTILL / "mmseg" / "cankd" / f"{name}.py")
    assert cfg.model.type == "PartialTeacherDistill"
    assert differences_from(cfg.model.architecture, SEG.format(student)) == {}
    assert differences_from(cfg.model.teacher, SEG.format(teacher)) == {}
    assert cfg.model.teacher_ckpt.endswith(f"/{checkpoint}.pth") and cfg.model.teacher_ckpt == published_weights(
        cfg.model
    )
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
    assert cfg.train_dataloader.batch_size == 2 and cfg.find_unused_parameters is True
    assert cfg.val_cfg.type == "DistillValLoop"
    data = stock_config_of("mmseg::_base_/datasets/cityscapes.py")
    for key in ("train_dataloader", "val_dataloader", "val_evaluator", "test_evaluator"):
        assert without_scopes({**cfg[key], "batch_size": 0}) == without_scopes({**data[key], "batch_size": 0}), key


@pytest.mark.parametrize("name", sorted(DETR))
def test_detr_recipe(name):
    (student, student_differs, teacher, teacher_differs, checkpoint, levels, inherited, epochs, step, lr, batch,
     custom_keys) = DETR[name]  # fmt: skip
    cfg = read_config(DISTILL / "mmdet" / "cankd" / f"{name}.py")
    assert cfg.model.type == "PartialTeacherDistill"
    assert set(cfg.model) == {"_scope_", "type", "architecture", "teacher", "teacher_ckpt", "distiller"}
    assert differences_from(cfg.model.architecture, DET.format(student)) == student_differs
    assert differences_from(cfg.model.teacher, DET.format(teacher)) == teacher_differs
    assert cfg.model.teacher_ckpt.endswith(f"/{checkpoint}.pth")
    if "work_dirs" not in cfg.model.teacher_ckpt:
        assert cfg.model.teacher_ckpt == published_weights(cfg.model)
    distiller = cfg.model.distiller
    for recorders in (distiller.student_recorders, distiller.teacher_recorders):
        assert recorders == {"neck": {"type": "ModuleOutputs", "source": "neck"}}
    loss = {"type": "NLKDINLoss", "in_channels": 256, "loss_weight": 10}
    assert distiller.distill_losses == {f"loss_neck{level}": loss for level in range(levels)}
    assert distiller.loss_forward_mappings == {
        f"loss_neck{level}": {
            "s_feature": {"recorder": "neck", "from_student": True, "data_idx": level},
            "t_feature": {"recorder": "neck", "from_student": False, "data_idx": level},
        }
        for level in range(levels)
    }
    assert cfg.get("custom_hooks") == (inherited and [{"type": "InheritTeacherHook", **inherited}])
    assert cfg.optim_wrapper.optimizer == dict(type="AdamW", lr=lr, weight_decay=1e-4)
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=0.1, norm_type=2)
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys == custom_keys
    assert cfg.train_cfg.max_epochs == epochs and cfg.train_dataloader.batch_size == batch
    assert [(s.type, s.milestones) for s in cfg.param_scheduler] == [("MultiStepLR", [step])]
    assert cfg.val_cfg.type == "ValLoop" and "find_unused_parameters" not in cfg
    stock = stock_config_of(DET.format(student))
    for key in ("train_dataloader", "val_dataloader", "val_evaluator", "test_evaluator"):
        assert without_scopes({**cfg[key], "batch_size": 0}) == without_scopes({**stock[key], "batch_size": 0}), key


@pytest.mark.parametrize("name", DETR_INHERIT)
def test_detr_inherit_recipe(name):
    cfg, without = (read_config(DISTILL / f"mmdet/cankd/{kind}_neck_{name}.py") for kind in ("cankd-inherit", "cankd"))
    assert cfg.pop("custom_hooks") == [{"type": "InheritTeacherHook", "modules": DETR_INHERIT[name]}]
    without.pop("custom_hooks", None)
    assert cfg.to_dict() == without.to_dict()


def test_objects365_recipe():
    stock = DET.format(TEACHERS["retinanet_r101_fpn_1x_objects365v2"])
    cfg = read_config(DISTILL / "mmdet" / "cankd" / f"{OBJECTS365}.py")
    coco = read_config(DISTILL / "mmdet" / "cankd" / "cankd_fpn_retinanet_r101_retinanet_r50_2x_coco.py")
    assert cfg.model.type == "PartialTeacherDistill" and cfg.model.distiller == coco.model.distiller
    assert differences_from(cfg.model.architecture, stock) == {}
    assert differences_from(cfg.model.teacher, stock) == R101_BACKBONE
    assert cfg.custom_hooks == [{"type": "InheritTeacherHook"}]
    assert cfg.optim_wrapper.optimizer == dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=1e-4)
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=35, norm_type=2)
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.type, warm_up.start_factor, warm_up.end, warm_up.by_epoch) == ("LinearLR", 1e-3, 10000, False)
    assert (steps.type, steps.milestones) == ("MultiStepLR", [8, 11])
    assert cfg.train_cfg.max_epochs == 12 and cfg.auto_scale_lr.base_batch_size == 4 * cfg.train_dataloader.batch_size
    for key in ("train_dataloader", "val_dataloader", "val_evaluator", "test_evaluator"):
        assert without_scopes(cfg[key]) == without_scopes(stock_config_of(stock)[key]), key


@pytest.mark.parametrize("name", sorted(CLASSIFICATION))
def test_classification_recipe(name):
    differs, teacher, checkpoint, source, channels, teacher_channels = CLASSIFICATION[name]
    stock = "mmpretrain::resnet/resnet18_8xb32_in1k.py"
    cfg = read_config(DISTILL / "mmpretrain" / "cankd" / f"{name}.py")
    found = differences_from(cfg.model.architecture, stock)
    assert found == differs
    assert differences_from(cfg.model.teacher, f"mmpretrain::{teacher}.py") == {}
    assert cfg.model.teacher_ckpt.endswith(f"/{checkpoint}.pth") and cfg.model.teacher_ckpt == published_weights(
        cfg.model
    )
    distiller = cfg.model.distiller
    assert distiller.student_recorders == {"backbone": {"type": "ModuleOutputs", "source": source}}
    assert distiller.teacher_recorders == {"backbone": {"type": "ModuleOutputs", "source": "backbone.layer4"}}
    loss = dict(type="NLKDINLoss", in_channels=teacher_channels, loss_weight=10)
    assert distiller.distill_losses == {"loss_backbone": loss}
    s_feature = distiller.loss_forward_mappings.loss_backbone.s_feature
    if channels == teacher_channels:
        assert "connectors" not in distiller and "connector" not in s_feature
    else:
        assert s_feature.connector == "backbone" and distiller.connectors.backbone.in_channel == channels
        assert distiller.connectors.backbone.out_channel == teacher_channels
    cfg_stock = stock_config_of(stock)
    for key in ("train_dataloader", "val_dataloader", "val_evaluator", "optim_wrapper", "param_scheduler", "train_cfg"):
        assert without_scopes(cfg[key]) == without_scopes(cfg_stock[key]), key
    assert cfg.train_cfg.max_epochs == 100


def test_every_teacher_without_a_checkpoint_has_its_training_configuration():
    configs = {path.stem: path for path in (ROOT / "configs" / "teachers").glob("*.py")}
    assert set(configs) == set(TEACHERS)
    for name, stock in TEACHERS.items():
        cfg, cfg_stock = read_config(configs[name]), stock_config_of(DET.format(stock))
        (recipe,) = [path for path in DISTILL.rglob("*.py") if f"work_dirs/{name}/" in path.read_text()]
        distilled = read_config(recipe)
        assert f"work_dirs/{name}/epoch_{cfg.train_cfg.max_epochs}.pth" == distilled.model.teacher_ckpt
        assert f"configs/teachers/{name}.py" in recipe.read_text()
        mine, theirs = flat(without_scopes(cfg.model)), flat(without_scopes(cfg_stock.model))
        changed = {key: value for key, value in mine.items() if theirs.get(key) != value}
        if "swin" in name:
            # CrossKD's authors trained with 4 images on each GPU and 0.01 for every 16.
            assert changed == {} and cfg.auto_scale_lr == dict(enable=True, base_batch_size=16)
            assert cfg.optim_wrapper.optimizer == dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=1e-4)
            cfg_stock.train_dataloader.batch_size = 4
        else:
            assert changed.pop(("backbone", "init_cfg", "checkpoint")) == "torchvision://resnet101"
            assert changed == R101_BACKBONE
        assert without_scopes(cfg.train_dataloader) == without_scopes(cfg_stock.train_dataloader)


def test_the_student_that_mmdet_lacks_has_its_training_configuration():
    (file,) = (ROOT / "configs" / "students").glob("*.py")
    cfg, stock = read_config(file), stock_config_of(DET.format(f"{SWIN_L}12e_coco"))
    mine, theirs = flat(without_scopes(cfg.model)), flat(without_scopes(stock.model))
    assert file.stem == "dino-5scale_swin-b_8xb2-12e_coco"
    assert {key: value for key, value in mine.items() if theirs.get(key) != value} == SWIN_B
    for key in ("train_dataloader", "optim_wrapper", "param_scheduler", "train_cfg", "auto_scale_lr"):
        assert without_scopes(cfg[key]) == without_scopes(stock[key]), key


def _distinct(table: dict, folder: str) -> list[Path]:
    """One recipe for each pair of student and teacher."""
    pairs = {str(row[:2]): DISTILL / folder / "cankd" / f"{name}.py" for name, row in sorted(table.items())[::-1]}
    return sorted(pairs.values())


PAIRS = [
    *_distinct(DETECTION, "mmdet"),
    *_distinct(SEGMENTATION, "mmseg"),
    *(DISTILL / "mmdet" / "cankd" / f"{name}.py" for name in (*DETR, OBJECTS365)),
    *_distinct(CLASSIFICATION, "mmpretrain"),
]


@pytest.mark.slow
@pytest.mark.parametrize("path", PAIRS, ids=lambda path: path.stem)
def test_every_pair_builds_and_its_recorders_find_their_modules(path, tmp_path):
    cfg = read_config(path)
    cfg.model.teacher_ckpt = None
    if "grounding" in path.stem:
        for model in (cfg.model.architecture, cfg.model.teacher):
            model.language_model = dict(name=str(tiny_bert(tmp_path / "bert")))
    algorithm = MODELS.build(cfg.model)
    for side, model in (("student", algorithm.student), ("teacher", algorithm.teacher)):
        for recorder in cfg.model.distiller[f"{side}_recorders"].values():
            assert recorder.source in dict(model.named_modules())
    assert not any(parameter.requires_grad for parameter in algorithm.teacher.parameters())
