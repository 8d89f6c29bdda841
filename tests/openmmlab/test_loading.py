"""Models are loaded from each pair of configuration and checkpoint."""

from __future__ import annotations

import pytest
import torch

from cankd.openmmlab.checkpoint_files import load_checkpoint_file
from cankd.openmmlab.inference import predict
from cankd.openmmlab.loading import load_model
from tests.demo import CANKD, STUDENT, TEACHER, TEACHER_CKPT


@pytest.mark.slow
def test_each_pair_of_config_and_checkpoint_gives_the_same_student(distilled, converted, scene):
    expected = load_checkpoint_file(converted)["state_dict"]
    for config, checkpoint in ((CANKD, distilled), (STUDENT, distilled), (CANKD, converted), (STUDENT, converted)):
        model, cfg = load_model(config, checkpoint)
        assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
        assert not model.training and model.dataset_meta["classes"] == tuple("0123456789")
        assert "pred_instances" in predict(model, cfg, scene)


@pytest.mark.slow
def test_the_teacher_comes_from_either_checkpoint(distilled, tmp_path):
    expected = load_checkpoint_file(TEACHER_CKPT)["state_dict"]
    bare = load_checkpoint_file(distilled)
    bare["state_dict"] = {key: value for key, value in bare["state_dict"].items() if not key.startswith("teacher.")}
    torch.save(bare, tmp_path / "bare.pth")
    # a checkpoint that leaves the teacher out has it in the configuration's teacher_ckpt
    for config, file in (
        (CANKD, distilled),
        (TEACHER, distilled),
        (CANKD, TEACHER_CKPT),
        (CANKD, tmp_path / "bare.pth"),
    ):
        teacher, _ = load_model(config, file, role="teacher")
        assert all(torch.equal(value, expected[key]) for key, value in teacher.state_dict().items())
    with pytest.raises(FileNotFoundError, match=r"holds no teacher.*teacher_ckpt=FILE"):
        away = {"model.teacher_ckpt": "https://127.0.0.1/away.pth"}
        load_model(CANKD, tmp_path / "bare.pth", role="teacher", cfg_options=away)


@pytest.mark.slow
def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="does not fit the model of .*quickstart_student.py.*layer1.2.conv1"):
        load_model(STUDENT, TEACHER_CKPT)
    with pytest.raises(ValueError, match="role: got 'pupil', expected one of student, teacher"):
        load_model(TEACHER, TEACHER_CKPT, role="pupil")
