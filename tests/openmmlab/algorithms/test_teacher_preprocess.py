"""Teachers that get the images as their own data preprocessor makes them."""

from __future__ import annotations

import contextlib
import copy
import json
from pathlib import Path
from typing import Any, Iterator

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import HOOKS
from mmrazor.registry import MODELS

from cankd.openmmlab.engine.runner import unwrapped
from tests.conftest import TOLERANCE, relative_error
from tests.demo import CANKD, TEACHER_CKPT, options_for

RGB = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
BGR = dict(mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395], bgr_to_rgb=False)
GFL: dict[str, Any] = dict(
    type="StockModel",
    cfg="mmdet::gfl/gfl_r50_fpn_1x_coco.py",
    backbone=dict(depth=18, base_channels=8, init_cfg=None),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
    bbox_head=dict(num_classes=10, in_channels=32, feat_channels=32),
)
TARGETS = "mmdet.models.dense_heads.gfl_head.GFLHead.get_targets"
DISTILLER = dict(type="LevelDistiller", source="neck", levels=[0, 1], loss=dict(type="FeatureMSELoss"))


def _algorithm(student: dict, teacher: dict, **options: Any) -> Any:
    """Two detectors of the same weights with the given data preprocessors."""
    config = {"type": "PartialTeacherDistill", "distiller": DISTILLER, "teacher_preprocess": True, **options}
    models = {}
    for part, preprocessor in (("architecture", student), ("teacher", teacher)):
        preprocessor = {"_replace_": True, "type": "DetDataPreprocessor", **preprocessor}
        models[part] = MODELS.build(dict(GFL, data_preprocessor=preprocessor))
    torch.manual_seed(0)
    models["teacher"].init_weights()
    models["architecture"].load_state_dict(models["teacher"].state_dict())
    return MODELS.build({**config, **models}).train()


def _raw() -> dict:
    return demo_mm_inputs(2, [[3, 45, 37], [3, 33, 45]], num_items=[3, 2], num_classes=10)


@contextlib.contextmanager
def _compared(algorithm: Any) -> Iterator[list[torch.Tensor]]:
    """The teacher's maps as the losses get them inside the block."""
    found: list[torch.Tensor] = []
    handles = [
        loss.register_forward_pre_hook(lambda *call: found.append(call[2]["t_feature"]), with_kwargs=True)
        for loss in algorithm.distiller.distill_losses.values()
    ]
    yield found
    for handle in handles:
        handle.remove()


def _step(algorithm: Any, data: dict) -> list[torch.Tensor]:
    """The teacher's maps that the losses get in one step."""
    with _compared(algorithm) as found:
        losses = algorithm(**algorithm.data_preprocessor(copy.deepcopy(data), True), mode="loss")
    assert algorithm.parse_losses(losses)[0].isfinite()
    return found


def _alone(teacher: Any, data: dict) -> tuple[torch.Tensor, ...]:
    """The maps that a teacher makes of the images in its own preprocessing."""
    inputs = teacher.data_preprocessor(copy.deepcopy(data), True)["inputs"]
    with torch.no_grad():
        return teacher.extract_feat(inputs)


CASES: dict[str, Any] = {
    "colours": (dict(**BGR, pad_size_divisor=32), dict(**RGB, pad_size_divisor=32), 8),
    "all": (dict(pad_value=114), dict(**RGB, pad_size_divisor=32, pad_value=1), 6),
    "divisor": (dict(**RGB, pad_size_divisor=2), dict(**RGB, pad_size_divisor=128), 6),
}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"type": "CrossKD"}, {"teacher_channels_last": True}], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_the_recorded_maps_are_those_of_the_teacher_alone(case, options):
    student, teacher, size = CASES[case]
    algorithm, data = _algorithm(student, teacher, **options), _raw()
    compared, alone = _step(algorithm, data), _alone(algorithm.teacher, data)
    # 45 pixels, padded for the student alone, in strides 8 and 16.
    assert [tuple(level.shape[2:]) for level in compared] == [(size, size), (size // 2, size // 2)]
    for got, expected in zip(compared, alone):
        assert relative_error(got, expected[:, :, : got.shape[2], : got.shape[3]]) < TOLERANCE[torch.float32]
    algorithm.teacher_images = None
    assert case == "divisor" or relative_error(_step(algorithm, data)[0], compared[0]) > 0.02


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["PartialTeacherDistill", "CrossKD"])
def test_equal_preprocessors_change_no_number(kind):
    preprocessor = dict(**RGB, pad_size_divisor=32)
    found = []
    for teacher_preprocess in (True, False):
        algorithm = _algorithm(preprocessor, preprocessor, type=kind, teacher_preprocess=teacher_preprocess)
        batch = algorithm.data_preprocessor(_raw_again(), True)
        images, samples = algorithm.teacher_batch(batch["inputs"], batch["data_samples"])
        assert images is batch["inputs"] and samples is batch["data_samples"]
        found.append(algorithm(**batch, mode="loss"))
        assert not any("teacher_images" in name for name in algorithm.state_dict())
    losses, expected = map(algorithm.parse_losses, found)
    assert losses[1] == expected[1] and len(losses[1]) > 4


def _raw_again() -> dict:
    torch.manual_seed(0)
    return _raw()


@pytest.mark.parametrize(("teacher", "warned"), [(RGB, False), (BGR, True), ({"type": "BaseDataPreprocessor"}, False)])
def test_without_the_option_another_normalisation_is_logged(teacher, warned, caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    _algorithm(RGB, teacher, teacher_preprocess=False)
    logger.removeHandler(caplog.handler)
    assert ("Set model.teacher_preprocess=True" in caplog.text) == warned


def test_deliveries_of_another_size_are_refused():
    deliveries = dict(targets=dict(type="MethodOutputs", max_keep_data=1, method_path=TARGETS))
    algorithm = _algorithm({}, dict(pad_size_divisor=32), distiller=dict(DISTILLER, distill_deliveries=deliveries))
    with pytest.raises(ValueError, match=r"got images of \(45, 45\) and distill_deliveries, expected multiples of 32"):
        _step(algorithm, _raw())


def test_a_teacher_without_a_preprocessor_is_one_line():
    with pytest.raises(ValueError, match="got no data_preprocessor of the teacher") as error:
        _algorithm(RGB, dict(type="BaseDataPreprocessor"))
    assert "\n" not in str(error.value)


@HOOKS.register_module()
class TeacherAloneHook(Hook):
    """Writes how far the maps that the losses got are from those of the teacher alone, in each iteration."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.alone = _alone(unwrapped(runner.model).teacher, data_batch)[1:]
        self.recording = _compared(unwrapped(runner.model))
        self.compared = self.recording.__enter__()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.recording.__exit__(None, None, None)
        sizes = [tuple(sample.img_shape) for sample in data_batch["data_samples"]]
        errors = [relative_error(*pair) for pair in zip(self.compared, self.alone)]
        with Path(runner.work_dir, "errors.jsonl").open("a") as file:
            file.write(json.dumps({"errors": errors, "sizes": sizes}) + "\n")


RUN = f"""
_base_ = ['{CANKD}']
custom_imports = dict(imports=['cankd.openmmlab', 'tests.openmmlab.algorithms.test_teacher_preprocess'])
custom_hooks = [dict(type='TeacherAloneHook')]
norm_cfg = dict(type='BN')
model = dict(
    teacher_preprocess=True,
    architecture=dict(
        _delete_=True,
        type='StockModel',
        cfg='mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
        data_preprocessor=dict(pad_size_divisor=32, pad_value=0.5),
        backbone=dict(widen_factor=0.125, init_cfg=None, norm_cfg=norm_cfg),
        neck=dict(in_channels=[32, 64, 128], out_channels=64, norm_cfg=norm_cfg),
        bbox_head=dict(num_classes=10, in_channels=64, feat_channels=64, norm_cfg=norm_cfg)),
    distiller=dict(
        levels=[0, 1, 2],
        loss_forward_mappings={{f'loss_fpn{{i}}': dict(t_feature=dict(data_idx=i + 1)) for i in range(3)}}))
train_dataloader = dict(dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomChoiceResize', scales=[(96, 60), (50, 90), (80, 80)]),
    dict(type='PackDetInputs')]))
val_cfg = dict(type='DistillValLoop')
"""


@pytest.mark.slow
def test_a_bgr_student_trains_under_an_rgb_teacher(mini_data, run_tool, tmp_path):
    config, work_dir = tmp_path / "rtmdet.py", tmp_path / "run"
    config.write_text(RUN)
    run_tool("train.py", config, "--work-dir", work_dir, *options_for(mini_data, TEACHER_CKPT, iterations=2))
    lines = [json.loads(line) for line in (work_dir / "errors.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and len({tuple(size) for line in lines for size in line["sizes"]}) > 1
    assert all(len(line["errors"]) == 3 and max(line["errors"]) < TOLERANCE[torch.float32] for line in lines)
