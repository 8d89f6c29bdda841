"""The schedule of the distillation's weight: its values, in the algorithms, and in runs that resume."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmrazor.registry import MODELS

from cankd.openmmlab.checkpoint_files import load_checkpoint_file
from cankd.openmmlab.engine import DistillWeightHook
from tests.demo import CANKD, TEACHER_CKPT, options_for, records_of

HALF = (1 + math.cos(math.pi / 2)) / 2
SCHEDULES: dict[str, tuple[dict, list[float]]] = {
    "constant": (dict(), [1, 1, 1, 1, 1, 1, 1, 1]),
    "other weight": (dict(weight=3), [3, 3, 3, 3, 3, 3, 3, 3]),
    "warm-up": (dict(warmup=4), [0, 0.25, 0.5, 0.75, 1, 1, 1, 1]),
    "cosine": (dict(decay="cosine"), [(1 + math.cos(math.pi * i / 8)) / 2 for i in range(8)]),
    "to an end": (dict(decay="cosine", begin=2, end=6), [1, 1, 1, 0.853553390593, HALF, 0.146446609407, 0, 0]),
    "both": (dict(weight=2, warmup=2, decay="cosine", end=6), [0, 1, 2, 1.707106781187, 1, 0.292893218813, 0, 0]),
    "epochs": (dict(warmup=1, decay="cosine", begin=2, end=3, by_epoch=True), [0, 0.5, 1, 1, 1, HALF, 0, 0]),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_weight_of_each_iteration(name):
    arguments, expected = SCHEDULES[name]
    hook = DistillWeightHook(**arguments)
    assert [hook.weight_at(i, max_iters=8, epoch_length=2) for i in range(8)] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(decay="linear"), "got decay='linear', expected None or 'cosine'"),
        (dict(end=5), "got begin or end without a decay"),
        (dict(warmup=-1), "warmup=-1, begin=None, expected none below 0"),
        (dict(decay="cosine", warmup=5, end=5), "got end=5 and begin=5, expected an end behind it"),
    ],
)
def test_a_fault_is_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        DistillWeightHook(**arguments)
    assert "\n" not in str(error.value)


GFL: dict[str, Any] = dict(
    type="StockModel",
    cfg="mmdet::gfl/gfl_r50_fpn_1x_coco.py",
    backbone=dict(depth=18, base_channels=8, init_cfg=None),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
    bbox_head=dict(num_classes=10, in_channels=32, feat_channels=32),
)
# A loss of one value, and one of named parts that needs the ground truth.
POINTS = dict(
    type="LevelDistiller",
    points=[
        dict(source="backbone", levels=[2], loss=dict(type="PKDLoss", loss_weight=6)),
        dict(
            source="neck",
            levels=[0],
            loss=dict(type="FGDLoss", in_channels=32),
            parts=True,
            extra_inputs=dict(data_samples=dict(recorder="model", from_student=True, data_idx=1)),
        ),
    ],
    student_recorders=dict(model=dict(type="ModuleInputs", source="")),
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["PartialTeacherDistill", "CrossKD"])
def test_every_distillation_loss_is_multiplied(kind):
    algorithm = MODELS.build(dict(type=kind, architecture=GFL, teacher=GFL, distiller=POINTS)).train()
    algorithm.init_weights()
    data = demo_mm_inputs(2, [[3, 64, 64]] * 2, num_items=[3, 2], num_classes=10)
    batch = algorithm.data_preprocessor(data, True)
    found = {}
    for weight in (1, 0.25, 0):
        algorithm.distill_weight = weight
        found[weight] = algorithm.parse_losses(algorithm(**batch, mode="loss"))[1]
    names = [name for name in found[1] if not name.startswith("student.") and name != "loss"]
    assert len(names) > 3 and any("loss_neck0." in name for name in names)
    for name, whole in found[1].items():
        distilled = name in names
        assert found[0.25][name] == whole * (0.25 if distilled else 1) or name == "loss", name
        assert found[0][name] == whole * (not distilled) or name == "loss", name
    ran: list = []
    algorithm.teacher.backbone.register_forward_hook(lambda *call: ran.append(call))
    algorithm.distillation_stopped = True
    assert all(name.startswith("student.") for name in algorithm(**batch, mode="loss")) and not ran


RUN = f"""
_base_ = ['{CANKD}']
custom_imports = dict(imports=['cankd.openmmlab', 'tests.recording'])
custom_hooks = [
    dict(type='RecordingHook'),
    dict(type="DistillWeightHook", warmup=3, decay="cosine", end=6),
    dict(type='mmrazor.StopDistillHook', stop_epoch=2)]
model = dict(distiller=dict(points=[
    dict(),
    dict(source='backbone', name='backbone', levels=[3], loss=dict(type='PKDLoss', loss_weight=6),
         connector=dict(type='ConvModuleConnector', in_channel=128, out_channel=192, norm_cfg=None, act_cfg=None))]))
param_scheduler = []
train_dataloader = dict(sampler=dict(_delete_=True, type='DefaultSampler', shuffle=False))
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=3, val_interval=9)
default_hooks = dict(logger=dict(log_metric_by_epoch=True), checkpoint=dict(by_epoch=True, interval=1))
log_processor = dict(by_epoch=True)
"""


def _train(run_tool, work_dir: Path, data: Path, epochs: int, *arguments: str) -> list[dict]:
    """The scalars that a run of two iterations in each epoch logged."""
    config = work_dir.with_suffix(".py")
    config.write_text(RUN)
    pieces = [
        piece for piece in options_for(data, TEACHER_CKPT) if "max_iters" not in piece and "interval=3" not in piece
    ]
    run_tool("train.py", config, "--work-dir", work_dir, *arguments, *pieces, f"train_cfg.max_epochs={epochs}")
    lines = [json.loads(line) for file in sorted(work_dir.glob("*/vis_data/scalars.json")) for line in file.open()]
    return [line for line in lines if "distill_weight" in line]


@pytest.mark.slow
def test_schedule_and_stop_resume_exactly(mini_data, run_tool, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    logged = _train(run_tool, whole, mini_data, 3)
    _train(run_tool, resumed, mini_data, 1)
    assert [line["distill_weight"] for line in _train(run_tool, resumed, mini_data, 3, "--resume")] == [
        line["distill_weight"] for line in logged
    ]
    weights = [0, 1 / 3, 2 / 3, 1, 0, 0]
    assert [line["distill_weight"] for line in logged] == pytest.approx(weights)
    records = records_of(whole)
    assert [record["losses"] for record in records_of(resumed)] == [record["losses"] for record in records]
    names = {"distill.loss_backbone3", *(f"distill.loss_fpn{level}" for level in range(4))}
    for number, record in enumerate(records):  # four iterations until StopDistillHook's epoch
        distilled = {name: loss for name, loss in record["losses"].items() if name.startswith("distill.")}
        assert set(distilled) == (names if number < 4 else set())
        assert all((loss == 0) == (number == 0) for loss in distilled.values())
    states = [load_checkpoint_file(folder / "epoch_3.pth")["state_dict"] for folder in (whole, resumed)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
