"""A distillation's student is tested alone."""

from __future__ import annotations

import pytest

from cankd.openmmlab.configs import read_config
from cankd.openmmlab.engine.runner import StudentRunner
from tests.demo import CANKD, DATA
from tests.in_process import call_tool


@pytest.mark.slow
def test_the_teacher_is_not_built(mini_data, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(
        f"_base_ = ['{CANKD}']\nmodel = dict(teacher=dict(_delete_=True, type='NoSuchModel'))\n"
        + DATA.format(data=mini_data)
    )
    done = call_tool("test.py", config, "none", "--work-dir", tmp_path / "run")
    assert "coco/bbox_mAP" in done.stdout


@pytest.mark.parametrize("mean", [None, [1.0, 2.0, 3.0]])
def test_images_are_normalised_as_the_distillation_does(mean, tmp_path):
    cfg = read_config(CANKD)
    cfg.work_dir = str(tmp_path)
    if mean:
        cfg.data_preprocessor = dict(type="DetDataPreprocessor", mean=mean, std=[4.0, 5.0, 6.0])
    model = StudentRunner.from_cfg(cfg).model
    assert type(model).__name__ == "RetinaNet"
    assert model.data_preprocessor.mean.flatten().tolist() == (mean or pytest.approx([123.675, 116.28, 103.53]))
