"""The short form of a distiller against mmrazor's long form, which is written out here."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmrazor.registry import MODELS

from cankd.openmmlab.configs import read_config
from cankd.openmmlab.distillers import PartsDistiller, expand_distiller
from cankd.openmmlab.engine.config_checks import check_options
from tests.conftest import ROOT

CANKD: dict[str, Any] = dict(type="NLKDINLoss", in_channels=8, loss_weight=10)
SHORT: dict[str, Any] = dict(type="LevelDistiller", source="neck", name="fpn", levels=[0, 1], loss=CANKD)
NECK = dict(type="ModuleOutputs", source="neck")
LONG: dict[str, Any] = dict(
    type="ConfigurableDistiller",
    student_recorders=dict(fpn=NECK),
    teacher_recorders=dict(fpn=NECK),
    distill_losses=dict(loss_fpn0=CANKD, loss_fpn1=CANKD),
    loss_forward_mappings=dict(
        loss_fpn0=dict(
            s_feature=dict(recorder="fpn", from_student=True, data_idx=0),
            t_feature=dict(recorder="fpn", from_student=False, data_idx=0),
        ),
        loss_fpn1=dict(
            s_feature=dict(recorder="fpn", from_student=True, data_idx=1),
            t_feature=dict(recorder="fpn", from_student=False, data_idx=1),
        ),
    ),
)
CONVOLUTION = dict(type="ConvModuleConnector", in_channel=4, out_channel=8, norm_cfg=None, act_cfg=None)
# One map each, of modules with different names; the student's goes through a connector.
BACKBONE_SHORT: dict[str, Any] = dict(
    type="LevelDistiller",
    source="backbone.layer4",
    student_source="backbone.layer7",
    loss=dict(type="PKDLoss", loss_weight=6),
    connector=CONVOLUTION,
)
BACKBONE_LONG: dict[str, Any] = dict(
    type="ConfigurableDistiller",
    student_recorders=dict(backbone=dict(type="ModuleOutputs", source="backbone.layer7")),
    teacher_recorders=dict(backbone=dict(type="ModuleOutputs", source="backbone.layer4")),
    connectors=dict(backbone=CONVOLUTION),
    distill_losses=dict(loss_backbone=dict(type="PKDLoss", loss_weight=6)),
    loss_forward_mappings=dict(
        loss_backbone=dict(
            preds_S=dict(recorder="backbone", from_student=True, connector="backbone"),
            preds_T=dict(recorder="backbone", from_student=False),
        )
    ),
)
# A connector on each side, with another pooling for one level; lists of connectors are mmrazor's.
STUDENT = [CONVOLUTION, dict(type="FBKDStudentConnector", in_channels=8)]
TEACHER = dict(type="FBKDTeacherConnector", in_channels=8)
BOTH_SHORT: dict[str, Any] = dict(
    type="LevelDistiller",
    source="neck",
    levels=[0, 2],
    loss=dict(type="FBKDLoss"),
    student_connector=STUDENT,
    teacher_connector=TEACHER,
    connectors=dict(Teacher2=dict(maxpool_stride=4)),
)
BOTH_LONG: dict[str, Any] = dict(
    type="ConfigurableDistiller",
    student_recorders=dict(neck=NECK),
    teacher_recorders=dict(neck=NECK),
    connectors=dict(Student0=STUDENT, Student2=STUDENT, Teacher0=TEACHER, Teacher2=dict(TEACHER, maxpool_stride=4)),
    distill_losses=dict(loss_neck0=dict(type="FBKDLoss"), loss_neck2=dict(type="FBKDLoss")),
    loss_forward_mappings=dict(
        loss_neck0=dict(
            s_input=dict(recorder="neck", from_student=True, data_idx=0, connector="Student0"),
            t_input=dict(recorder="neck", from_student=False, data_idx=0, connector="Teacher0"),
        ),
        loss_neck2=dict(
            s_input=dict(recorder="neck", from_student=True, data_idx=2, connector="Student2"),
            t_input=dict(recorder="neck", from_student=False, data_idx=2, connector="Teacher2"),
        ),
    ),
)
# A loss that returns parts and takes the ground truth.
BOXES = dict(recorder="model", from_student=True, data_idx=1)
FGD_SHORT: dict[str, Any] = dict(
    type="LevelDistiller",
    source="neck",
    levels=[1],
    loss=dict(type="FGDLoss", in_channels=8),
    parts=True,
    student_recorders=dict(model=dict(type="ModuleInputs", source="")),
    extra_inputs=dict(data_samples=BOXES),
)
FGD_LONG: dict[str, Any] = dict(
    type="PartsDistiller",
    student_recorders=dict(neck=NECK, model=dict(type="ModuleInputs", source="")),
    teacher_recorders=dict(neck=NECK),
    distill_losses=dict(loss_neck1=dict(type="FGDLoss", in_channels=8)),
    loss_forward_mappings=dict(
        loss_neck1=dict(
            s_feature=dict(recorder="neck", from_student=True, data_idx=1),
            t_feature=dict(recorder="neck", from_student=False, data_idx=1),
            data_samples=BOXES,
        )
    ),
)
# The teacher's maps have other places than the student's, or are one map.
SHIFTED_SHORT: dict[str, Any] = dict(SHORT, teacher_levels=[1, 4])
SHIFTED_LONG: dict[str, Any] = copy.deepcopy(LONG)
for _loss, _level in (("loss_fpn0", 1), ("loss_fpn1", 4)):
    SHIFTED_LONG["loss_forward_mappings"][_loss]["t_feature"]["data_idx"] = _level
SINGLE_SHORT: dict[str, Any] = dict(SHORT, levels=[1], teacher_levels=[None], teacher_source="backbone.layer4")
SINGLE_LONG: dict[str, Any] = dict(
    type="ConfigurableDistiller",
    student_recorders=dict(fpn=NECK),
    teacher_recorders=dict(fpn=dict(type="ModuleOutputs", source="backbone.layer4")),
    distill_losses=dict(loss_fpn1=CANKD),
    loss_forward_mappings=dict(
        loss_fpn1=dict(
            s_feature=dict(recorder="fpn", from_student=True, data_idx=1),
            t_feature=dict(recorder="fpn", from_student=False),
        )
    ),
)
# Each level of the student is a module of its own.
MODULES_SHORT: dict[str, Any] = dict(
    SHORT, name="out", teacher_levels=[1, 2], student_source="neck.out_convs.{level}.conv", connector=CONVOLUTION
)
MODULES_LONG: dict[str, Any] = dict(
    type="ConfigurableDistiller",
    student_recorders={
        f"out{level}": dict(type="ModuleOutputs", source=f"neck.out_convs.{level}.conv") for level in (0, 1)
    },
    teacher_recorders=dict(out=NECK),
    connectors=dict(out0=CONVOLUTION, out1=CONVOLUTION),
    distill_losses=dict(loss_out0=CANKD, loss_out1=CANKD),
    loss_forward_mappings={
        f"loss_out{level}": dict(
            s_feature=dict(recorder=f"out{level}", from_student=True, connector=f"out{level}"),
            t_feature=dict(recorder="out", from_student=False, data_idx=level + 1),
        )
        for level in (0, 1)
    },
)
# Two points, one with connectors on both sides, one with parts; the second takes the loss that stands beside them.
POINTS_SHORT: dict[str, Any] = dict(
    type="LevelDistiller",
    loss=dict(type="FGDLoss", in_channels=8),
    points=[
        dict(
            source="backbone",
            levels=[2],
            loss=dict(type="FBKDLoss"),
            student_connector=STUDENT,
            teacher_connector=TEACHER,
        ),
        dict(source="neck", name="fpn", levels=[0], parts=True, extra_inputs=dict(data_samples=BOXES)),
    ],
    student_recorders=dict(model=dict(type="ModuleInputs", source="")),
)
POINTS_LONG: dict[str, Any] = dict(
    type="PartsDistiller",
    student_recorders=dict(
        backbone=dict(type="ModuleOutputs", source="backbone"), fpn=NECK, model=dict(type="ModuleInputs", source="")
    ),
    teacher_recorders=dict(backbone=dict(type="ModuleOutputs", source="backbone"), fpn=NECK),
    connectors=dict(backboneStudent2=STUDENT, backboneTeacher2=TEACHER),
    distill_losses=dict(loss_backbone2=dict(type="FBKDLoss"), loss_fpn0=dict(type="FGDLoss", in_channels=8)),
    loss_forward_mappings=dict(
        loss_backbone2=dict(
            s_input=dict(recorder="backbone", from_student=True, data_idx=2, connector="backboneStudent2"),
            t_input=dict(recorder="backbone", from_student=False, data_idx=2, connector="backboneTeacher2"),
        ),
        loss_fpn0=dict(
            s_feature=dict(recorder="fpn", from_student=True, data_idx=0),
            t_feature=dict(recorder="fpn", from_student=False, data_idx=0),
            data_samples=BOXES,
        ),
    ),
)
FORMS = {
    "levels": (SHORT, LONG),
    "one map": (BACKBONE_SHORT, BACKBONE_LONG),
    "both sides": (BOTH_SHORT, BOTH_LONG),
    "parts": (FGD_SHORT, FGD_LONG),
    "other levels of the teacher": (SHIFTED_SHORT, SHIFTED_LONG),
    "one map of the teacher": (SINGLE_SHORT, SINGLE_LONG),
    "a module for each level": (MODULES_SHORT, MODULES_LONG),
    "points": (POINTS_SHORT, POINTS_LONG),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_short_form_expands_to_the_long_one(name):
    short, long = FORMS[name]
    before = copy.deepcopy(short)
    expanded = expand_distiller(short)
    assert expanded == long and short == before
    # Parameters are drawn in this order.
    for key in ("connectors", "distill_losses"):
        assert list(expanded.get(key, {})) == list(long.get(key, {}))
    assert expand_distiller(expanded) == long


@pytest.mark.parametrize("name", FORMS)
def test_a_short_form_is_built_as_its_long_one(name):
    models = []
    for config in FORMS[name]:
        torch.manual_seed(0)
        models.append(MODELS.build(config))
    short, long = (model.state_dict() for model in models)
    assert type(models[0]) is type(models[1]) and list(short) == list(long)
    assert all(torch.equal(short[key], long[key]) for key in short)
    assert models[0].loss_forward_mappings == FORMS[name][1]["loss_forward_mappings"]


def test_keys_of_the_long_form_change_the_expansion():
    laid_over = dict(
        SHORT,
        type="PartsDistiller",
        distill_losses=dict(loss_fpn0=dict(loss_weight=5), loss_fpn1=dict(_delete_=True, type="L2Loss")),
        loss_forward_mappings=dict(loss_fpn1=dict(s_feature=dict(data_idx=0))),
        teacher_recorders=dict(fpn=dict(source="backbone")),
    )
    long = copy.deepcopy(LONG)
    long.update(type="PartsDistiller", distill_losses=dict(loss_fpn0=dict(CANKD, loss_weight=5)))
    long["distill_losses"]["loss_fpn1"] = dict(type="L2Loss")
    long["loss_forward_mappings"]["loss_fpn1"]["s_feature"]["data_idx"] = 0
    long["teacher_recorders"]["fpn"] = dict(type="ModuleOutputs", source="backbone")
    assert expand_distiller(laid_over) == long
    assert isinstance(MODELS.build(expand_distiller(laid_over)), PartsDistiller)

    replaced = dict(SHORT, distill_losses=dict(_delete_=True, loss_mine=dict(type="L2Loss")))
    assert expand_distiller(replaced)["distill_losses"] == dict(loss_mine=dict(type="L2Loss"))


def _config(folder: Path, text: str) -> Path:
    file = folder / "child.py"
    file.write_text(f"_base_ = ['{ROOT}/configs/demo/quickstart_cankd.py']\n{text}\n")
    return file


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("model = dict(distiller=dict(loss=dict(loss_weight=5)))", {}),
        ("", {"model.distiller.loss.loss_weight": 5}),
        ("losses = {f'loss_fpn{i}': dict(loss_weight=5) for i in range(4)}\n"
         "model = dict(distiller=dict(distill_losses=losses))", {}),
        ("", {f"model.distiller.distill_losses.loss_fpn{level}.loss_weight": 5 for level in range(4)}),
    ],
    ids=["short key in a file", "short option", "long keys in a file", "long options"],
)  # fmt: skip
def test_files_and_options_change_both_forms(text, options, tmp_path):
    cfg = read_config(_config(tmp_path, text), options)
    weights = {name: loss["loss_weight"] for name, loss in cfg.model.distiller.distill_losses.items()}
    assert weights == {f"loss_fpn{level}": 5 for level in range(4)}
    assert cfg.model.distiller.type == "ConfigurableDistiller"
    # As any runner of mmengine reads and builds it.
    plain = Config.fromfile(_config(tmp_path, text))
    plain.merge_from_dict(options)
    assert {loss.loss_weight for loss in MODELS.build(plain.model.distiller).distill_losses.values()} == {5}


def test_a_long_option_goes_over_a_short_one(tmp_path):
    options = {"model.distiller.loss.loss_weight": 5, "model.distiller.distill_losses.loss_fpn2.loss_weight": 7}
    losses = read_config(_config(tmp_path, ""), options).model.distiller.distill_losses
    assert [loss.loss_weight for loss in losses.values()] == [5, 5, 7, 5]


def test_options_of_both_forms_are_known(tmp_path, caplog):
    cfg = read_config(_config(tmp_path, ""), expand=False)
    known = ["levels", "loss.loss_weight", "distill_losses.loss_fpn0.loss_weight", "student_recorders.fpn.source"]
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    check_options(cfg, {f"model.distiller.{key}": 1 for key in known})
    assert "in any file" not in caplog.text
    check_options(cfg, {"model.distiller.distill_losses.loss_fpn7.loss_weight": 1})
    logger.removeHandler(caplog.handler)
    assert "has no loss_fpn7 in any file" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": "0"}, r"levels: got '0', expected integers"),
        ({"levels": [0.5]}, r"levels: got \[0.5\], expected integers"),
        ({"teacher_levels": [0]}, r"teacher_levels: got \[0\], expected 2, one for each level"),
        ({"teacher_levels": 1}, "teacher_levels: got 1, expected 2, one for each level"),
        ({"levels": []}, r"levels: got \[\], expected integers"),
        ({"lvels": [0]}, "unknown key lvels, expected one like levels"),
        ({"source": 3}, "source: got 3, expected the name of a module"),
        ({"loss": "NLKDINLoss"}, "loss: got 'NLKDINLoss', expected a dict whose type is a registered loss"),
        ({"loss": dict(type="Absent")}, "expected a dict whose type is a registered loss"),
        ({"connector": CONVOLUTION, "student_connector": CONVOLUTION}, "expected one of them"),
    ],
)
def test_a_fault_is_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        expand_distiller({**SHORT, **changes})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["source", "loss"])
def test_a_missing_key_is_named(key):
    short = {name: value for name, value in SHORT.items() if name != key}
    with pytest.raises(ValueError, match=f"without {key}"):
        expand_distiller(short)


def test_a_loss_by_its_published_name():
    short = dict(SHORT, loss=dict(type="NLKD_IN_Loss", in_channels=8))
    assert set(expand_distiller(short)["loss_forward_mappings"]["loss_fpn0"]) == {"s_feature", "t_feature"}


def test_long_keys_change_an_expansion_of_several_points():
    laid_over = dict(POINTS_SHORT, distill_losses=dict(loss_fpn0=dict(alpha=0.5)))
    expanded = expand_distiller(laid_over)
    assert expanded["distill_losses"]["loss_fpn0"] == dict(type="FGDLoss", in_channels=8, alpha=0.5)
    assert expand_distiller(dict(points=POINTS_SHORT["points"][:1]))["type"] == "ConfigurableDistiller"


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], r"distiller.points: got \[\], expected a list of dicts"),
        (dict(source="neck"), "distiller.points: got {'source': 'neck'}, expected a list of dicts"),
        (["neck"], r"distiller.points\[0\]: got 'neck', expected a dict"),
        ([dict(sorce="neck")], r"distiller.points\[0\]: got an unknown key sorce, expected one like source"),
        ([dict(levels=[0])], r"distiller.points\[0\]: got a LevelDistiller without source"),
        ([dict(source="neck")] * 2, r"distiller.points\[1\]: got the name 'neck' of another point, .* Give it a name"),
        ([dict(source="neck", loss=3)], "distiller.loss: got 3, expected a dict"),
    ],
)
def test_a_fault_of_several_points_is_one_line(points, message):
    with pytest.raises(ValueError, match=message) as error:
        expand_distiller(dict(type="LevelDistiller", loss=CANKD, points=points))
    assert "\n" not in str(error.value)


def test_files_and_options_change_points(tmp_path):
    text = """
model = dict(distiller=dict(points=[
    dict(),
    dict(source='backbone', name='backbone', levels=[3], loss=dict(type='PKDLoss', loss_weight=6)),
]))
"""
    options = {"model.distiller.points.1.loss.loss_weight": 5, "model.distiller.loss.loss_weight": 3}
    losses = read_config(_config(tmp_path, text), options).model.distiller.distill_losses
    weights = {name: loss["loss_weight"] for name, loss in losses.items()}
    assert weights == {**{f"loss_fpn{level}": 3 for level in range(4)}, "loss_backbone3": 5}
