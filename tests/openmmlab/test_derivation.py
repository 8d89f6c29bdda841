"""What a distiller's configuration leaves out is derived from the maps of its models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmrazor.registry import MODELS

from cankd.openmmlab.configs import in_scope, read_config
from cankd.openmmlab.derivation import complete_distiller, model_maps
from cankd.openmmlab.zoo_sweep import train_step
from tests.conftest import ROOT
from tests.demo import CANKD

BASES = ROOT / "configs/_base_"
DETECTOR = f"""
_base_ = ["{ROOT}/configs/demo/quickstart_data.py", "{{base}}"]
model = dict(architecture=dict(cfg="{ROOT}/configs/demo/quickstart_student.py"), teacher_ckpt=None, teacher=dict(
    cfg="{ROOT}/configs/demo/quickstart_teacher.py", neck=dict(out_channels=48), bbox_head=dict(in_channels=48)))
"""
SEGMENTER = f"""
_base_ = ["{BASES}/segmentation_cityscapes.py", "{{base}}"]
def small(base):
    return dict(cfg="mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py", backbone=dict(base_channels=base),
                decode_head=dict(in_channels=8 * base, channels=16), auxiliary_head=dict(in_channels=4 * base))
model = dict(architecture=small(8), teacher=small(16), teacher_ckpt=None)
small = None
"""
STUDENT, TEACHER = (dict(type="mmrazor.StockModel", cfg=f"{ROOT}/configs/demo/quickstart_{name}.py")
                    for name in ("student", "teacher"))  # fmt: skip
NECKS = [BASES / "fpn.py", *sorted((BASES / "methods").glob("*_fpn.py"))]
BACKBONES = [BASES / "segmenter_backbone.py", *sorted((BASES / "methods").glob("*_backbone.py"))]


def _written(folder: Path, text: str) -> Path:
    file = folder / "config.py"
    file.write_text(text)
    return file


@pytest.mark.parametrize("base", NECKS + BACKBONES, ids=lambda base: base.stem)
def test_a_swap_names_the_models_alone(base, tmp_path):
    """On maps of other channels than the recipes', and of another number; the loss and each connector learn."""
    is_segmenter = base in BACKBONES
    text = (SEGMENTER if is_segmenter else DETECTOR).format(base=base)
    cfg = read_config(_written(tmp_path, text))
    losses = train_step(cfg, (256, 256) if base.stem == "fbkd_fpn" else (128, 128))  # it pools the maps
    distilled = {name.split(".")[1] for name in losses if name.startswith("distill.")}
    assert distilled == ({"loss_backbone"} if is_segmenter else {f"loss_fpn{level}" for level in range(4)})


def _distiller(**more: Any) -> dict[str, Any]:
    return {"type": "LevelDistiller", "source": "neck", "levels": 2, "loss": dict(type="NLKDINLoss"), **more}


def test_levels_and_channels_are_those_of_the_models():
    teacher = dict(TEACHER, neck=dict(out_channels=48, start_level=1, num_outs=3), bbox_head=dict(in_channels=48))
    config = complete_distiller(_distiller(), STUDENT, teacher)
    convolution = dict(type="ConvModuleConnector", in_channel=64, out_channel=48, norm_cfg=None, act_cfg=None)
    assert config["connectors"] == dict(neck1=convolution, neck2=convolution)
    assert config["distill_losses"] == dict.fromkeys(
        ("loss_neck1", "loss_neck2"), dict(type="NLKDINLoss", in_channels=48)
    )
    mapping = config["loss_forward_mappings"]["loss_neck1"]
    assert (mapping["s_feature"]["data_idx"], mapping["t_feature"]["data_idx"]) == (1, 0)
    # The part of a backbone that returns its last map; maps of other strides are resized by the loss that can.
    last = complete_distiller(_distiller(source="backbone", levels="last"), STUDENT, TEACHER)
    assert last["student_recorders"] == dict(backbone=dict(type="ModuleOutputs", source="backbone.layer4"))
    assert last["distill_losses"] == dict(loss_backbone=dict(type="NLKDINLoss", in_channels=192))
    other = _distiller(student_source="backbone.layer1", teacher_source="backbone.layer3", levels="last")
    assert complete_distiller(other, STUDENT, TEACHER)["distill_losses"]["loss_neck"]["align"]


def test_what_is_given_stands_and_costs_nothing():
    given = _distiller(levels=[0, 1], loss=dict(type="NLKDINLoss", in_channels=7))
    nowhere = dict(type="mmrazor.StockModel", cfg="mmdet::absent.py")
    assert complete_distiller(given, nowhere, nowhere)["distill_losses"]["loss_neck0"] == given["loss"]
    changed = _distiller(connectors=dict(neck0=dict(kernel_size=3, padding=1)), distill_losses=dict(loss_neck1=dict(
        in_channels=7)))  # fmt: skip
    config = complete_distiller(changed, STUDENT, TEACHER)
    assert config["distill_losses"]["loss_neck1"]["in_channels"] == 7
    assert config["connectors"]["neck0"] == dict(
        type="ConvModuleConnector", in_channel=64, out_channel=64, kernel_size=3, padding=1, norm_cfg=None, act_cfg=None
    )


def test_a_runner_of_mmengine_derives_too_and_draws_no_random_numbers():
    models = []
    for cfg in (Config.fromfile(CANKD), read_config(CANKD)):
        cfg.model.distiller.get("loss", {}).pop("in_channels", None)
        torch.manual_seed(0)
        with in_scope(cfg):
            models.append(MODELS.build({**cfg.model, "teacher_ckpt": None}))
        models[-1].drawn = torch.rand(1)
    short, long = (model.state_dict() for model in models)
    assert list(short) == list(long) and all(torch.equal(short[key], long[key]) for key in short)
    assert torch.equal(models[0].drawn, models[1].drawn)


def test_a_model_that_needs_values_is_built_with_them():
    """Deformable convolutions do not run without memory; neither do the random numbers move."""
    backbone = dict(depth=50, base_channels=4, dcn=dict(type="DCNv2"), stage_with_dcn=(False, False, False, True))
    model = dict(STUDENT, backbone=backbone)
    torch.manual_seed(0)
    (*_, last) = model_maps(model).of("neck")
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert last.channels == 64 and torch.equal(drawn, torch.rand(1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(source="nekc"), r"distiller.student_source: got nekc, .* expected a module like neck, backbone"),
        (dict(source="nekc", levels=[0]), r"student_recorders.nekc: got source='nekc', .* like neck"),
        (dict(levels=[7]), r"loss_neck7: got no in_channels, .* student's neck .* has 0, 1, 2, 3, expected 7"),
        (dict(source="bbox_head", levels=None), "it has no maps before the head, expected one map"),
        (dict(student_recorders=dict(neck=dict(type="ModuleInputs"))), "which only the first output of a module tells"),
        (dict(levels=0), 'levels: got 0, expected integers such as .* a number of levels or "last"'),
    ],
)  # fmt: skip
def test_what_cannot_be_derived_is_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        complete_distiller(_distiller(**changes), STUDENT, TEACHER)
    assert "\n" not in str(error.value)
