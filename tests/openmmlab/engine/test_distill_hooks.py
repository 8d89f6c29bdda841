"""Validation loop and checkpoint hook, in real runs through the command line tools."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import EMAHook
from mmengine.registry import HOOKS

from cankd.openmmlab.checkpoint_files import load_checkpoint_file
from tests.conftest import ROOT

CANKD = ROOT / "configs/demo/quickstart_cankd.py"
TEACHER = ROOT / "configs/demo/quickstart_teacher.pth"

CONFIG = """
_base_ = ['{base}']
custom_imports = dict(imports=['cankd.openmmlab', 'tests.openmmlab.engine.test_distill_hooks'])
custom_hooks = [dict(type='WeighingEMAHook', momentum=0.5)]
model = dict(type='PartialTeacherDistill', teacher_ckpt='{teacher}', teacher_fuse_conv_bn=True,
             architecture=dict(test_cfg=dict(score_thr={score_thr})))
data_root = '{data}/'
train_dataloader = dict(batch_size=2, dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_iters={iterations}, val_interval=1)
param_scheduler = []
val_cfg = dict(type='DistillValLoop', teacher_metrics={metrics})
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(type='DistillCheckpointHook', interval=1, max_keep_ckpts=-1, save_optimizer=True,
                    save_best='coco/bbox_mAP'))
"""


@HOOKS.register_module()
class WeighingEMAHook(EMAHook):
    """Checks that a validation hands the weights of training back, as an average of weights needs."""

    def before_val(self, runner):
        self.weight = runner.model.student.bbox_head.retina_cls.weight.clone()

    def after_val(self, runner):
        now = runner.model.student.bbox_head.retina_cls.weight
        ema = self.ema_model.module.student.bbox_head.retina_cls.weight
        same, average_differs = torch.equal(now, self.weight), not torch.equal(now, ema)
        runner.logger.info(f"weights handed back: {same}, average differs: {average_differs}")


def _train(run_tool, work_dir: Path, data: Path, iterations: int, *arguments: str, metrics=None, score_thr=0.0) -> str:
    config = work_dir.with_suffix(".py")
    values = dict(iterations=iterations, metrics=metrics, score_thr=score_thr)
    config.write_text(CONFIG.format(base=CANKD, teacher=TEACHER, data=data, **values))
    return run_tool("train.py", config, "--work-dir", work_dir, *arguments).stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory, mini_data, run_tool):
    """A run of two iterations, a validation after each: its work dir and what it printed."""
    work_dir = tmp_path_factory.mktemp("distill") / "run"
    return work_dir, _train(run_tool, work_dir, mini_data, 2)


def _validations(work_dir: Path) -> list[dict]:
    lines = [json.loads(line) for file in sorted(work_dir.glob("*/vis_data/scalars.json")) for line in file.open()]
    return [line for line in lines if "coco/bbox_mAP" in line]


@pytest.mark.slow
def test_the_teacher_is_evaluated_once_and_logged_at_every_validation(run, mini_data, run_tool, tmp_path):
    work_dir, printed = run
    assert printed.count("Evaluating the teacher") == 1
    first, second = _validations(work_dir)
    alone = run_tool(
        "test.py", ROOT / "configs/demo/quickstart_teacher.py", TEACHER, "--work-dir", tmp_path, "--cfg-options",
        f"test_dataloader.dataset.data_root={mini_data}/", f"test_evaluator.ann_file={mini_data}/annotations/val.json",
    )  # fmt: skip
    assert alone
    (score,) = tmp_path.glob("*/*.json")
    for name, value in json.loads(score.read_text()).items():
        if name.startswith("coco/"):
            # The loop's teacher has its batch norms folded in: at most another last digit of mmdet's three.
            assert first[f"teacher.{name}"] == second[f"teacher.{name}"] == pytest.approx(value, abs=1.1e-3)
    assert first["teacher.coco/bbox_mAP"] > 0.3 > first["coco/bbox_mAP"]


@pytest.mark.slow
def test_a_validation_hands_the_weights_back(run):
    # The average starts as a copy of the first weights.
    assert "weights handed back: True, average differs: False" in run[1]
    assert "weights handed back: True, average differs: True" in run[1]


@pytest.mark.slow
def test_checkpoints_hold_no_teacher_and_convert(run, run_tool, tmp_path):
    work_dir, printed = run
    (best,) = work_dir.glob("best_coco_bbox_mAP_iter_*.pth")
    for file in (work_dir / "iter_1.pth", work_dir / "iter_2.pth", best):
        checkpoint = load_checkpoint_file(file)
        assert not any("teacher." in name for part in ("state_dict", "ema_state_dict") for name in checkpoint[part])
        assert checkpoint["meta"]["teacher_ckpt"] == str(TEACHER)
    assert printed.count("Checkpoints leave the teacher out") == 1
    assert not list(work_dir.glob("*.part"))
    run_tool("model_converters/convert_kd_ckpt_to_student.py", best, "--out-path", tmp_path)
    (student,) = tmp_path.glob("*_student.pth")
    assert "bbox_head.retina_cls.weight" in load_checkpoint_file(student)["state_dict"]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, mini_data, run_tool):
    """A run of three iterations at once that is told what the teacher's score is."""
    work_dir = tmp_path_factory.mktemp("whole") / "run"
    return work_dir, _train(run_tool, work_dir, mini_data, 3, metrics={"coco/bbox_mAP": 0.5})


@pytest.mark.slow
def test_a_run_resumes_as_if_it_had_not_been_interrupted(run, whole_run, mini_data, run_tool, tmp_path):
    work_dir, _ = run
    whole, _ = whole_run
    printed = _train(run_tool, work_dir, mini_data, 3, "--resume")
    assert "resumed epoch: 0, iter: 2" in printed and "Evaluating the teacher" not in printed
    assert "do not match exactly" not in printed
    assert _validations(work_dir)[-1]["teacher.coco/bbox_mAP"] == _validations(work_dir)[0]["teacher.coco/bbox_mAP"]
    resumed, expected = (load_checkpoint_file(folder / "iter_3.pth")["state_dict"] for folder in (work_dir, whole))
    assert list(resumed) == list(expected)
    for name, value in expected.items():
        assert torch.equal(resumed[name], value), name
    # Evaluation from a checkpoint without a teacher, quietly.
    config = work_dir.with_suffix(".py")
    options = ["--work-dir", tmp_path / "test", "--cfg-options", "custom_hooks=[]"]  # checkpoints hold the average
    done = run_tool("test.py", config, work_dir / "iter_3.pth", *options)
    assert "do not match exactly" not in done.stdout and "coco/bbox_mAP: 0." in done.stdout


@pytest.mark.slow
def test_a_known_teacher_is_not_evaluated(whole_run):
    work_dir, printed = whole_run
    assert "Evaluating the teacher" not in printed
    validations = _validations(work_dir)
    assert len(validations) == 3
    for validation in validations:
        teacher = {name: value for name, value in validation.items() if name.startswith("teacher.")}
        assert teacher == {"teacher.coco/bbox_mAP": 0.5}


@pytest.mark.slow
def test_a_student_that_finds_nothing_is_no_checkpoint_of_the_teachers_score(mini_data, run_tool, tmp_path):
    work_dir = tmp_path / "nothing"
    printed = _train(run_tool, work_dir, mini_data, 1, metrics={"coco/bbox_mAP": 0.5}, score_thr=1.0)
    assert "`metrics` is an empty dict" in printed and not list(work_dir.glob("best*"))


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    backend = get_file_backend(backend_args={"backend": "whole_file"})
    file = tmp_path / "iter_1.pth"
    backend.put(b"old", file)

    def interrupted(self, obj, filepath):
        Path(filepath).write_bytes(obj[:1])
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalBackend, "put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        backend.put(b"new", file)
    assert file.read_bytes() == b"old" and [path.name for path in tmp_path.iterdir()] == ["iter_1.pth"]
