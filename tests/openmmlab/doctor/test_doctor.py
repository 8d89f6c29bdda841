"""The doctor finds each planted fault, and none in what this repository ships."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config

from cankd.openmmlab.compat import TESTED
from cankd.openmmlab.configs import read_config
from cankd.openmmlab.doctor import ERROR, NOT_CHECKED, OK, WARNING, Finding, all_changes, examine
from cankd.openmmlab.doctor.environment import (
    check_gpu,
    check_learning_rate,
    check_memory,
    check_versions,
    configured_size,
)
from cankd.openmmlab.doctor.steps import take_steps
from cankd.openmmlab.doctor.subject import build_subject, shrink, take_batch
from tests.conftest import ROOT
from tests.demo import CANKD, DATA, TEACHER_CKPT

CONNECTOR = "dict(type='ConvModuleConnector', in_channel=64, out_channel=64)"


class Planted(NamedTuple):
    """A fault: what is laid over the quickstart's distillation, the check that finds it, and a part of the finding."""

    config: str
    check: str
    state: str
    found: str


def distiller(text: str) -> str:
    return f"model = dict(distiller=dict({text}))"


def mapping(text: str) -> str:
    return distiller(f"loss_forward_mappings=dict(loss_fpn1=dict({text}))")


PLANTED = {
    "a recorder on no module": Planted(
        distiller("student_recorders=dict(fpn=dict(source='nek'))"),
        "models",
        ERROR,
        "a module of the student like neck",
    ),
    "a level that is not there": Planted(
        mapping("s_feature=dict(data_idx=7)"), "recorders", ERROR, "nothing was recorded for loss_fpn1.s_feature"
    ),
    "maps of two strides": Planted(
        mapping("s_feature=dict(data_idx=2)"), "maps of loss_fpn1", ERROR, "64 channels, stride 16"
    ),
    "other channels": Planted(
        "model = dict(architecture=dict(neck=dict(out_channels=32), bbox_head=dict(in_channels=32)), "
        "distiller=dict(levels=[0, 1, 2, 3]))",
        "maps of loss_fpn3",
        ERROR,
        "student's neck[3] 32 channels, stride 32",
    ),
    "another loss's channels": Planted(
        distiller("distill_losses=dict(loss_fpn2=dict(in_channels=256))"), "maps of loss_fpn2", ERROR, "got 64 channels"
    ),
    "other channels and strides": Planted(
        "model = dict(distiller=dict(_delete_=True, type='LevelDistiller', source='backbone.layer2', "
        "teacher_source='neck.fpn_convs.0', loss=dict(type='NLKDINLoss', in_channels=64)))",
        "maps of loss_backbone",
        ERROR,
        "student's backbone.layer2 32 channels, stride 8",
    ),
    "no weights for the teacher": Planted(
        "model = dict(teacher_ckpt=None)", "teacher's weights", ERROR, "so that the teacher is random"
    ),
    "a teacher's file that is not there": Planted(
        "model = dict(teacher_ckpt='absent.pth')",
        "teacher's weights",
        ERROR,
        "got absent.pth, expected an existing file",
    ),
    "a checkpoint on the network": Planted(
        "model = dict(teacher_ckpt='http://127.0.0.1:9/absent.pth')", "teacher's weights", NOT_CHECKED, "not on disk"
    ),
    "the backbone's weights alone": Planted(
        "model = dict(teacher_ckpt='{backbone}')", "teacher's weights", ERROR, "the losses depend on neck.lateral_convs"
    ),
    "a teacher whose head is noise": Planted(
        "model = dict(teacher_ckpt='{noise}')",
        "teacher's accuracy",
        WARNING,
        "no metric of 8 validation images",
    ),
    "a teacher whose batch norms adapt": Planted(
        "model = dict(teacher_norm_eval=False)", "teacher's state", ERROR, "which a frozen teacher keeps"
    ),
    "a teacher that is trained along": Planted(
        "model = dict(type='SingleTeacherDistill', teacher_trainable=True)", "teacher's state", WARNING, "trained along"
    ),
    "images in wrong colours": Planted(
        "model = dict(teacher=dict(data_preprocessor=dict(bgr_to_rgb=False)))",
        "teacher's images",
        WARNING,
        "wrong colours",
    ),
    "a random student that is frozen": Planted(
        "model = dict(architecture=dict(backbone=dict(frozen_stages=1, norm_eval=True)))",
        "student's start",
        WARNING,
        "frozen parts stay random",
    ),
    "another number of classes": Planted(
        "model = dict(architecture=dict(bbox_head=dict(num_classes=12)))", "classes", ERROR, "got num_classes=12"
    ),
    "a loss that weighs nothing": Planted(
        distiller("distill_losses=dict(loss_fpn1=dict(loss_weight=0.0))"), "losses", ERROR, "loss_fpn1 is zero"
    ),
    "a loss that is not a number": Planted(
        distiller("distill_losses=dict(loss_fpn1=dict(loss_weight=float('nan')))"),
        "losses",
        ERROR,
        "is not finite in step 1",
    ),
    "a loss that is left out for its name": Planted(
        "model = dict(distiller=dict(_delete_=True, type='ConfigurableDistiller', "
        "student_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')), "
        "teacher_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')), "
        "distill_losses=dict(cankd=dict(type='NLKDINLoss', in_channels=64)), loss_forward_mappings=dict(cankd=dict("
        "s_feature=dict(recorder='fpn', from_student=True, data_idx=0), "
        "t_feature=dict(recorder='fpn', from_student=False, data_idx=0)))))",
        "losses",
        ERROR,
        "cankd is no part of the total loss",
    ),
    "losses that are far too small": Planted(
        distiller("loss=dict(loss_weight=1e-8)"), "losses", WARNING, "times. Change loss_weight"
    ),
    "gradients that are far too small": Planted(
        distiller("distill_losses=dict(loss_fpn0=dict(loss_weight=1e-8))"),
        "shares of the gradient",
        WARNING,
        "loss_fpn0 has no effect",
    ),
    "losses that are far too large": Planted(
        distiller("loss=dict(loss_weight=1e6)"), "losses", WARNING, "times. Change loss_weight"
    ),
    "losses that the optimizer does not train": Planted(
        "optim_wrapper = dict(paramwise_cfg=dict(custom_keys={{'distill_losses.loss_fpn0': dict(lr_mult=0.0)}}))",
        "parameters of the distillation",
        ERROR,
        "or has a rate of 0 for them",
    ),
    "a connector that no loss uses": Planted(
        distiller(f"connectors=dict(extra={CONNECTOR})"),
        "parameters of the distillation",
        WARNING,
        "1 of 17 weights get no gradient: distiller.connectors.extra",
    ),
    "parameters that no process reduces": Planted(
        f"find_unused_parameters = False\n{distiller(f'connectors=dict(extra={CONNECTOR})')}",
        "parameters without a gradient",
        WARNING,
        "a training in several processes would stop",
    ),
}


# Those for which the doctor writes lines to paste.
CURED = [
    "maps of two strides",
    "other channels",
    "another loss's channels",
    "other channels and strides",
    "images in wrong colours",
    "parameters that no process reduces",
]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Checkpoints of teachers that are none."""
    folder = tmp_path_factory.mktemp("teachers")
    weights = torch.load(TEACHER_CKPT, weights_only=True)["state_dict"]
    backbone = {name: value for name, value in weights.items() if name.startswith("backbone")}
    noise = {name: value if "head" not in name else torch.randn_like(value) for name, value in weights.items()}
    made = {"backbone": folder / "backbone.pth", "noise": folder / "noise.pth"}
    torch.save(backbone, made["backbone"])
    torch.save(noise, made["noise"])
    return made


@pytest.fixture(scope="module")
def read(tmp_path_factory, mini_data, files):
    """Reads the quickstart's distillation on the mini data with further configuration."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "base.py").write_text(f"_base_ = ['{CANKD}']\n{DATA.format(data=mini_data)}")

    def read(more: str) -> Config:
        (folder / "config.py").write_text(f"_base_ = ['{folder}/base.py']\n{more.format(**files)}")
        return read_config(folder / "config.py")

    return read


def _by_check(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def _bad(findings: list[Finding]) -> list[str]:
    return [str(finding) for finding in findings if finding.state in (WARNING, ERROR)]


def test_a_sound_distillation_has_no_warning(read):
    findings = examine(read(""))
    found = _by_check(findings)
    assert not _bad(findings)
    assert found["teacher's weights"].found.startswith("208 of 208 tensors of ")
    score = float(found["teacher's accuracy"].found.split()[1])
    assert 40 < score < 80
    assert found["parameters of the distillation"].found.startswith("40, all in the optimizer; step 1 moves 8, step 2 ")
    assert found["maps of loss_fpn1"].found.startswith(
        "student's neck[1] 64 channels, stride 8 (12 x 12) and teacher's"
    )
    assert found["training data"].found == "real images" and found["memory"].state == OK


def test_a_block_that_passes_nothing_on_before_its_zeros_move_is_no_fault(read):
    found = _by_check(examine(read(distiller("loss=dict(residual=False)")), data="synthetic"))
    shares = found["shares of the gradient"]
    assert shares.state == OK and shares.found.startswith("loss_fpn0 0 %, ") and "begins at zero" in shares.found


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found_and_the_lines_to_paste_cure_it(name, read):
    planted = PLANTED[name]
    cfg, data = read(planted.config), None if planted.check in ("teacher's accuracy", "classes") else "synthetic"
    findings = examine(cfg, data=data)
    found = _by_check(findings).get(planted.check)
    assert found is not None, findings
    assert found.state == planted.state and planted.found in str(found), "\n".join(map(str, findings))
    changes = all_changes(findings)
    assert bool(changes) == (name in CURED), changes
    if changes:
        cfg.merge_from_dict(changes)
        assert _by_check(examine(cfg, data=data))[planted.check].state == OK


def test_annotations_shrink_with_their_images():
    batch = demo_mm_inputs(
        1, [[3, 320, 640]], num_items=[4], num_classes=3, with_mask=True, with_semantic=True, use_box_type=True
    )
    before = copy.deepcopy(batch["data_samples"][0])
    shrink(batch, 160)
    (image,), (sample,) = batch["inputs"], batch["data_samples"]
    assert image.shape == (3, 80, 160) and image.dtype == torch.uint8 and sample.img_shape == (80, 160)
    assert torch.allclose(sample.gt_instances.bboxes.tensor * 4, before.gt_instances.bboxes.tensor, atol=1e-3)
    assert sample.gt_instances.masks.masks.shape == (4, 80, 160) and sample.gt_sem_seg.shape == (80, 160)
    unchanged = copy.deepcopy(sample)
    shrink(batch, 256)
    assert torch.equal(sample.gt_instances.bboxes.tensor, unchanged.gt_instances.bboxes.tensor)


def test_the_memory_is_estimated_from_small_images(read):
    found = []
    for size in ((96, 96), (192, 192)):
        cfg = read("")
        subject = build_subject(cfg)
        take_batch(subject, "synthetic")
        subject.batch["inputs"] = [
            torch.nn.functional.interpolate(image[None].float(), size)[0] for image in subject.batch["inputs"]
        ]
        found.append((subject, take_steps(subject, 1)))
    small, large = (steps.step_bytes for _, steps in found)
    assert large == pytest.approx(4 * small, rel=0.1) and 0 < found[0][1].loss_bytes < small
    subject, steps = found[0]
    assert check_memory(subject, steps).state == OK
    assert check_memory(subject, steps, available=1e6).state == WARNING


@pytest.mark.parametrize(
    ("pipeline", "size"),
    [
        ([dict(type="Resize", scale=(1333, 800))], (800, 1333)),
        ([dict(type="RandomResize", scale=(2048, 1024)), dict(type="RandomCrop", crop_size=(512, 1024))], (512, 1024)),
        ([dict(type="RandomCrop", crop_size=(384, 600)), dict(type="Resize", scale=(1333, 800))], (800, 1333)),
        ([dict(type="RandomChoiceResize", scales=[(1333, 640), (1333, 800)])], (800, 1333)),
        ([dict(type="RandomResizedCrop", scale=224)], (224, 224)),
        ([dict(type="PackDetInputs")], None),
    ],
)
def test_the_configured_size_of_an_image(pipeline, size):
    cfg = Config(dict(train_dataloader=dict(dataset=dict(dataset=dict(type="CocoDataset", pipeline=pipeline)))))
    assert configured_size(cfg) == size


@pytest.mark.parametrize(
    ("options", "state", "found"),
    [
        (dict(lr=0.01, batch=2, base=16), OK, "8 processes with a batch of 2"),
        (dict(lr=0.01, batch=32, base=16), WARNING, "which no number of processes with a batch of 32 makes"),
        (dict(lr=0.01, batch=2, base=None), NOT_CHECKED, "no auto_scale_lr.base_batch_size"),
        (dict(lr=1.0, batch=2, base=16), WARNING, "a loss that becomes NaN often comes from it"),
    ],
)
def test_the_learning_rate_is_compared_with_the_batch(options, state, found):
    scaling = dict(base_batch_size=options["base"]) if options["base"] else {}
    optimizer = dict(type="SGD", lr=options["lr"])
    cfg = dict(optim_wrapper=dict(optimizer=optimizer), auto_scale_lr=scaling)
    finding = check_learning_rate(Config(dict(cfg, train_dataloader=dict(batch_size=options["batch"]))))
    assert finding.state == state and found in finding.found


def test_other_versions_than_the_tested_ones_are_named():
    assert check_versions().state == OK
    finding = check_versions({**TESTED, "mmdet": ("9.",)})
    assert finding.state == WARNING and "tested are mmdet 9." in finding.found


def test_a_gpu_is_looked_for():
    assert check_gpu().state == (OK if torch.cuda.is_available() else NOT_CHECKED)


SHIPPED = [
    "mmdet/cankd/cankd_fpn_retinanet_r101_retinanet_r50_2x_coco.py",
    "mmdet/crosskd/crosskd_head_retinanet_r50_retinanet_r18_1x_coco.py",
    "mmdet/fgd/fgd_fpn_retinanet_r101_retinanet_r50_2x_coco.py",
    "mmdet/mgd/mgd_fpn_retinanet_r101_retinanet_r50_2x_coco.py",
    "mmseg/cankd/cankd_backbone_pspnet_r101_pspnet_r18_80k_cityscapes.py",
    "mmpretrain/cankd/cankd_backbone_resnet34_resnet18_8xb32_in1k.py",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED, ids=lambda name: Path(name).stem)
def test_shipped_recipes_have_no_warning(name):
    findings = examine(read_config(ROOT / "configs/distill" / name))
    assert not _bad(findings) and len(findings) > 12
