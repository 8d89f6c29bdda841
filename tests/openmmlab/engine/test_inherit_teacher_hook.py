"""Compares the students that start with the hook with those that the published files build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS as DETECTORS
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmrazor.models.algorithms import SingleTeacherDistill
from mmrazor.registry import MODELS
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cankd.openmmlab.models import stock_model
from tests.conftest import ROOT
from tests.train_recipe import tiny_bert

DET = ROOT / "configs" / "distill" / "mmdet" / "cankd"
RETINANET = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
FASTER = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
CASCADE = "mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py"


SMALL = dict(backbone=dict(depth=18, base_channels=8, init_cfg=None), neck=dict(in_channels=[8, 16, 32, 64]))


def _models(student, teacher, own: dict = SMALL) -> tuple[nn.Module, nn.Module]:
    """Returns a student, and a teacher whose parameters all are 0.25."""
    models = [stock_model(stock, **own) for stock in (student, teacher)]
    with torch.no_grad():
        for parameter in models[1].parameters():
            parameter.fill_(0.25)
    return models[0], models[1]


def _runner(student, teacher, folder, *hooks: dict, ckpt: str | None = "teacher.pth") -> Runner:
    """Returns mmengine's runner of a distillation that ends before its first step."""
    teacher.is_init = True
    losses = dict(type="mmrazor.ConfigurableDistiller")
    return Runner(
        SingleTeacherDistill(architecture=student, teacher=teacher, distiller=losses),
        str(folder),
        train_dataloader=DataLoader(TensorDataset(torch.zeros(1))),
        train_cfg=dict(by_epoch=False, max_iters=0),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        default_hooks=dict(checkpoint=None),
        custom_hooks=list(hooks),
        cfg=Config(dict(model=dict(teacher_ckpt=ckpt))),
        experiment_name=str(folder),
        default_scope="mmdet",
    )


def _started(student, teacher, folder, *hooks: dict) -> tuple[Any, str]:
    """Returns the student as a run starts with it, and the run's log."""
    runner = _runner(student, teacher, folder, *hooks)
    runner.train()
    return runner.model.student, next(folder.glob("*/*.log")).read_text()


INHERIT = dict(type="InheritTeacherHook")


def _filled(module):
    return [bool((parameter == 0.25).all()) for parameter in module.parameters()]


def test_neck_and_head_come_from_the_teacher_and_nothing_else(tmp_path):
    student, log = _started(*_models(RETINANET, RETINANET), tmp_path, INHERIT)
    assert all(_filled(student.neck)) and all(_filled(student.bbox_head)) and not any(_filled(student.backbone))
    assert "16 of 16 tensors of neck" in log and "20 of 20 tensors of bbox_head" in log


def test_two_stage_students_inherit_their_box_head_but_not_the_rpn(tmp_path):
    student, _ = _started(*_models(FASTER, FASTER), tmp_path, INHERIT)
    assert all(_filled(student.roi_head.bbox_head)) and not any(_filled(student.rpn_head))


def test_a_cascade_gives_its_first_head_and_what_does_not_fit_is_logged(tmp_path):
    _, log = _started(*_models(FASTER, CASCADE), tmp_path, INHERIT)
    # The cascade regresses class-agnostic boxes: 4 outputs against 320.
    assert "6 of 8 tensors of roi_head.bbox_head" in log
    assert "roi_head.bbox_head.fc_reg.weight has shape (320, 1024), the teacher's has shape (4, 1024)" in log


@pytest.mark.parametrize(
    ("stock", "head", "own"),
    [
        ("mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py", "decode_head", dict(pretrained=None)),
        ("mmpretrain::resnet/resnet18_8xb32_in1k.py", "head", {}),
    ],
)
def test_segmenters_and_classifiers_inherit_their_head(stock, head, own, tmp_path):
    student, _ = _started(*_models(stock, stock, own), tmp_path, INHERIT)
    assert all(_filled(getattr(student, head))) and not any(_filled(student.backbone))


def test_nothing_that_fits_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no tensor of the teacher that fits the student's bbox_head"):
        _started(*_models(RETINANET, FASTER), tmp_path, INHERIT)
    with pytest.raises(ValueError, match="none of the modules mask_head"):
        _started(*_models(RETINANET, RETINANET), tmp_path, dict(INHERIT, modules=["mask_head"]))


def test_a_teacher_without_weights_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="expected model.teacher_ckpt"):
        _runner(*_models(RETINANET, RETINANET), tmp_path, INHERIT, ckpt=None).train()


@pytest.mark.slow
def test_a_resumed_run_is_left_alone(tmp_path):
    runner = _runner(*_models(RETINANET, RETINANET), tmp_path / "first", INHERIT)
    runner.train()
    with torch.no_grad():
        for parameter in runner.model.student.parameters():
            parameter.fill_(0.5)
    runner.train_loop._iter = 5
    runner.save_checkpoint(str(tmp_path), "iter_5.pth", by_epoch=False)
    resumed = _runner(*_models(RETINANET, RETINANET), tmp_path / "second", INHERIT)
    resumed._resume, resumed._load_from = True, str(tmp_path / "iter_5.pth")
    resumed.train()
    assert resumed.iter == runner.iter + 1 and all(
        (parameter == 0.5).all() for parameter in resumed.model.student.parameters()
    )
    assert "Inherited" not in next((tmp_path / "second").glob("*/*.log")).read_text()


def test_a_run_that_only_evaluates_is_left_alone(tmp_path):
    runner = _runner(*_models(RETINANET, RETINANET), tmp_path, INHERIT, ckpt=None)
    runner.call_hook("before_run")  # as Runner.val and Runner.test do
    assert not any(_filled(runner.model.student.neck))


def _drawn_teacher(config: dict) -> nn.Module:
    """Returns a model without a tensor that an initialisation could make."""
    teacher = MODELS.build(config)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.normal_(0.5, 0.1)
    return teacher


def _published(stock: str, modules: dict[str, str], teacher: nn.Module, folder: Path, backbone: dict) -> nn.Module:
    """Builds the stock student as the published files do: each module's ``init_cfg`` reads the teacher's file."""
    torch.save({"state_dict": teacher.state_dict()}, folder / "teacher.pth")
    model = get_config(stock).model
    model.backbone.update(init_cfg=None, **backbone)
    for name, prefix in modules.items():
        part = model
        for key in name.split("."):
            part = part[key]
        part.init_cfg = dict(type="Pretrained", prefix=prefix, checkpoint=str(folder / "teacher.pth"))
    if "language_model" in model:
        model.language_model.name = str(tiny_bert(folder / "bert"))
    with DefaultScope.overwrite_default_scope("mmdet"):
        student = DETECTORS.build(model)
    student.init_weights()
    return student


SHALLOW = {"depths": [1, 1, 1, 1]}
HALVES = {"encoder": "encoder.", "decoder": "decoder.", "bbox_head": "bbox_head."}
DINO, SWIN, GDINO = (f"cankd_neck_{pair}_coco" for pair in (
    "dino_r101_dino_r50_12e", "dino_swin-l_dino_swin-b_12e", "grounding-dino_r101_grounding-dino_r50_1x"))  # fmt: skip
# Leaf -> the stock student, the modules whose init_cfg the published file sets and their prefixes, what makes the
# student's and the teacher's backbone smaller, of each module how many tensors are the teacher's in effect and of how
# many, and the spread of tensors that do not fit the teacher's, which torch and mmcv draw in the constructors.
STARTS: dict[str, tuple[str, dict[str, str], dict, dict, dict[str, tuple[int, int]], dict[str, float]]] = {
    DINO: (
        *("mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py", {"neck": "neck.", **HALVES}, {}, {}),
        {"neck": (12, 12), "encoder": (36, 96), "decoder": (64, 138), "bbox_head": (0, 56)},
        {},
    ),
    SWIN: (
        *("mmdet::dino/dino-5scale_swin-l_8xb2-12e_coco.py", HALVES, SHALLOW, SHALLOW),
        {"encoder": (36, 96), "decoder": (64, 138), "bbox_head": (0, 56)},
        {},
    ),
    GDINO: (
        *("mmdet::grounding_dino/grounding_dino_r50_scratch_8xb2_1x_coco.py", {"bbox_head": "bbox_head."}, {}, {}),
        {"neck": (0, 16), "encoder": (0, 276), "decoder": (0, 174), "bbox_head": (0, 49)},
        {},
    ),
    "cankd-inherit_fpn_cascade-mask-rcnn_x101_faster-rcnn_r50_2x_coco": (
        "mmdet::faster_rcnn/faster-rcnn_r50_fpn_2x_coco.py",
        {"neck": "neck", "roi_head.bbox_head": "roi_head.bbox_head.0"},
        *({}, {"depth": 50}, {"neck": (16, 16), "roi_head.bbox_head": (6, 8)}),
        {"roi_head.bbox_head.fc_reg.weight": 0.018},
    ),
    "cankd_fpn_mask-rcnn_swin-s_retinanet_r50_2x_coco": (
        *("mmdet::retinanet/retinanet_r50_fpn_2x_coco.py", {"neck": "neck."}, {}, SHALLOW),
        {"neck": (10, 16), "bbox_head": (0, 20)},
        {
            **{f"neck.lateral_convs.{i}.conv.weight": 0.088 for i in range(3)},
            **{f"neck.fpn_convs.{i}.conv.weight": 0.029 for i in (3, 4)},
        },
    ),
}


def _start_of_recipe(name: str, folder: Path, student_backbone: dict, teacher_backbone: dict):
    """Returns the student that a run of the recipe starts with, and its teacher."""
    cfg = Config.fromfile(DET / f"{name}.py")
    for model, backbone in ((cfg.model.architecture, student_backbone), (cfg.model.teacher, teacher_backbone)):
        model.backbone = dict(model.get("backbone", {}), init_cfg=None, **backbone)
        if "grounding_dino" in model.cfg:
            model.language_model = dict(name=str(tiny_bert(folder / "bert")))
    teacher = _drawn_teacher(cfg.model.teacher)
    student, log = _started(MODELS.build(cfg.model.architecture), teacher, folder, *cfg.get("custom_hooks", []))
    return student, teacher, log


def _inherited(student: nn.Module, teacher: nn.Module) -> set[str]:
    """Returns the names of the student's tensors that equal the teacher's."""
    # The first head of a cascade.
    given = {key.replace("bbox_head.0.", "bbox_head."): value for key, value in teacher.state_dict().items()}
    return {key for key, value in student.state_dict().items() if key in given and torch.equal(value, given[key])}


@pytest.mark.slow
@pytest.mark.parametrize("name", STARTS)
def test_a_recipe_starts_as_the_published_arrangement(name, tmp_path):
    stock, modules, student_backbone, teacher_backbone, counts, spreads = STARTS[name]
    student, teacher, log = _start_of_recipe(name, tmp_path, student_backbone, teacher_backbone)
    published = _published(stock, modules, teacher, tmp_path, student_backbone)
    taken = _inherited(student, teacher)
    assert taken == _inherited(published, teacher)
    spread, expected = (
        {key: value.std().item() for key, value in model.named_parameters() if value.numel() >= 500}
        for model in (student, published)
    )
    for module, (inherited, of) in counts.items():
        names = {key for key in student.state_dict() if key.startswith(f"{module}.")}
        assert (len(taken & names), len(names)) == (inherited, of), module
        assert not inherited or f"{inherited} of {of} tensors of {module}." in log
        for key in names & spread.keys():
            assert spread[key] == pytest.approx(expected[key], rel=0.1, abs=1e-6), key
    for key, value in spreads.items():
        assert spread[key] == pytest.approx(value, rel=0.1), key


@pytest.mark.slow
def test_dino_s_inherit_recipe_inherits_everything(tmp_path):
    student, teacher, log = _start_of_recipe(DINO.replace("cankd", "cankd-inherit"), tmp_path, {}, {})
    for module, (_, of) in STARTS[DINO][4].items():
        assert all(torch.equal(value, getattr(teacher, module).state_dict()[key]) for key, value in
                   getattr(student, module).state_dict().items())  # fmt: skip
        assert f"{of} of {of} tensors of {module}." in log


def test_the_overlay_is_registered_and_used_by_every_inherit_recipe():
    recipes = sorted(DET.glob("cankd-inherit_fpn_*.py"))
    assert len(recipes) == 7
    for recipe in recipes:
        assert Config.fromfile(recipe).custom_hooks == [dict(type="InheritTeacherHook")]


@pytest.mark.parametrize(
    "recipe",
    [
        "mmseg/cankd/cankd_backbone_pspnet_r101_pspnet_r18_80k_cityscapes.py",
        "mmpretrain/cankd/cankd_backbone_resnet34_resnet18_8xb32_in1k.py",
        "mmdet/fgd/fgd_fpn_retinanet_r101_retinanet_r50_2x_coco.py",
    ],
)
def test_the_overlay_goes_onto_any_recipe(recipe, tmp_path):
    config = tmp_path / "inherit.py"
    config.write_text(f"_base_ = ['{ROOT}/configs/distill/{recipe}', '{ROOT}/configs/_base_/inherit.py']\n")
    cfg = Config.fromfile(config)
    assert cfg.custom_hooks == [dict(type="InheritTeacherHook")] and cfg.model.teacher_ckpt
