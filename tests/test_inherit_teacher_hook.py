from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config

from cankd.engine import InheritTeacherHook
from cankd.models import stock_model
from tests.conftest import ROOT

RETINANET = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
FASTER = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
CASCADE = "mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py"


def _runner(student, teacher, iteration=0, ckpt="teacher.pth", **own):
    """What the hook reads of a runner, around two real models."""
    logger = logging.getLogger("inherit")
    logger.setLevel(logging.INFO)
    model = torch.nn.Module()
    model.student = stock_model(student, backbone=dict(init_cfg=None), **own)
    model.teacher = stock_model(teacher, backbone=dict(init_cfg=None), **own)
    with torch.no_grad():
        for parameter in (p for name, p in model.named_parameters() if name.startswith("teacher.")):
            parameter.fill_(0.25)
    cfg = Config(dict(model=dict(teacher_ckpt=ckpt)))
    return SimpleNamespace(iter=iteration, cfg=cfg, model=model, logger=logger)


def _filled(module):
    return [bool((parameter == 0.25).all()) for parameter in module.parameters()]


def test_neck_and_head_come_from_the_teacher_and_nothing_else(caplog):
    runner = _runner(RETINANET, RETINANET)
    with caplog.at_level(logging.INFO, logger="inherit"):
        InheritTeacherHook().before_train(runner)
    student = runner.model.student
    assert all(_filled(student.neck)) and all(_filled(student.bbox_head)) and not any(_filled(student.backbone))
    assert "16 of 16 tensors of neck" in caplog.text and "20 of 20 tensors of bbox_head" in caplog.text


def test_two_stage_students_inherit_their_box_head_but_not_the_rpn():
    runner = _runner(FASTER, FASTER)
    InheritTeacherHook().before_train(runner)
    assert all(_filled(runner.model.student.roi_head.bbox_head))
    assert not any(_filled(runner.model.student.rpn_head))


def test_a_cascade_gives_its_first_head_and_what_does_not_fit_is_logged(caplog):
    runner = _runner(FASTER, CASCADE)
    with caplog.at_level(logging.INFO, logger="inherit"):
        InheritTeacherHook().before_train(runner)
    # The cascade regresses class-agnostic boxes: 4 outputs against 320.
    assert "6 of 8 tensors of roi_head.bbox_head" in caplog.text
    assert "roi_head.bbox_head.fc_reg.weight has shape (320, 1024), the teacher's has shape (4, 1024)" in caplog.text


@pytest.mark.parametrize(
    ("stock", "head"),
    [
        ("mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py", "decode_head"),
        ("mmpretrain::resnet/resnet18_8xb32_in1k.py", "head"),
    ],
)
def test_segmenters_and_classifiers_inherit_their_head(stock, head):
    own = dict(pretrained=None) if "mmseg" in stock else {}
    runner = _runner(stock, stock, **own)
    InheritTeacherHook().before_train(runner)
    student = runner.model.student
    assert all(_filled(getattr(student, head))) and not any(_filled(student.backbone))


def test_nothing_that_fits_is_an_error():
    with pytest.raises(ValueError, match="no tensor of the teacher that fits the student's bbox_head"):
        InheritTeacherHook().before_train(_runner(RETINANET, FASTER))
    with pytest.raises(ValueError, match="none of the modules mask_head"):
        InheritTeacherHook(modules=["mask_head"]).before_train(_runner(RETINANET, RETINANET))


def test_a_teacher_without_weights_is_an_error():
    with pytest.raises(ValueError, match="expected model.teacher_ckpt"):
        InheritTeacherHook().before_train(_runner(RETINANET, RETINANET, ckpt=None))


def test_a_resumed_run_is_left_alone():
    runner = _runner(RETINANET, RETINANET, iteration=10)
    InheritTeacherHook().before_train(runner)
    assert not any(_filled(runner.model.student.neck))


def test_the_overlay_is_registered_and_used_by_every_dagger_leaf():
    leaves = sorted((ROOT / "configs/distill/mmdet/cankd").glob("cankd-dagger_*.py"))
    assert len(leaves) == 7
    for leaf in leaves:
        assert Config.fromfile(leaf).custom_hooks == [dict(type="InheritTeacherHook")]


@pytest.mark.parametrize(
    "leaf",
    [
        "mmseg/cankd/cankd_backbone_pspnet_r101_pspnet_r18_80k_cityscapes.py",
        "mmpretrain/cankd/cankd_backbone_resnet34_resnet18_8xb32_in1k.py",
        "mmdet/fgd/fgd_fpn_retinanet_r101_retinanet_r50_2x_coco.py",
    ],
)
def test_the_overlay_goes_onto_any_leaf(leaf, tmp_path):
    config = tmp_path / "dagger.py"
    config.write_text(f"_base_ = ['{ROOT}/configs/distill/{leaf}', '{ROOT}/configs/_base_/dagger.py']\n")
    cfg = Config.fromfile(config)
    assert cfg.custom_hooks == [dict(type="InheritTeacherHook")] and cfg.model.teacher_ckpt
