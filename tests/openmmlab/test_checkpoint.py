"""Tests the parts of a checkpoint, and that no run reads a file twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from cankd.openmmlab import checkpoint_files
from cankd.openmmlab.checkpoint import Checkpoint
from cankd.openmmlab.checkpoint_files import load_checkpoint_file
from cankd.openmmlab.configs import read_config
from cankd.openmmlab.loading import load_distillation
from tests.demo import CANKD
from tests.demo import TEACHER_CKPT as TEACHER
from tests.in_process import call_tool


def _content(*prefixes: str, wrapper: str = "") -> dict:
    return {"state_dict": {f"{wrapper}{prefix}weight": torch.tensor(float(i)) for i, prefix in enumerate(prefixes)}}


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_parts_have_their_own_names(wrapper):
    checkpoint = Checkpoint(_content("architecture.", "teacher.", "distiller.loss.", wrapper=wrapper))
    assert checkpoint.is_distillation and checkpoint.holds("teacher")
    assert checkpoint.weights("student") == checkpoint.part("student") == {"weight": 0}
    assert checkpoint.weights("teacher") == {"weight": 1} and checkpoint.part("distiller") == {"loss.weight": 2}
    assert checkpoint.converted() == {"meta": {}, "state_dict": {"weight": 0}}


def test_which_checkpoint_is_a_distillations():
    for prefixes, expected in (
        (("architecture.", "data_preprocessor."), True),
        (("architecture.", "teacher."), True),
        (("architecture.", "distiller."), True),
        (("architecture.", "neck."), False),  # a model that has a part of that name
        (("teacher.",), False),
        (("",), False),
    ):
        assert Checkpoint(_content(*prefixes)).is_distillation is expected, prefixes
    single = Checkpoint({"weight": 1})
    assert single.weights("student") == single.weights("teacher") == {"weight": 1}
    for part, message in (("student", "not a distillation checkpoint.*got weight"), ("teacher", "holds no teacher")):
        with pytest.raises(ValueError, match=message):
            single.part(part)


def test_where_the_teachers_weights_are(tmp_path):
    cfg, own = read_config(CANKD), tmp_path / "own.pth"
    torch.save(_content(""), own)
    whole, single = (Checkpoint(_content(*prefixes)) for prefixes in (("architecture.", "teacher."), ("",)))
    assert whole.source("teacher", cfg) is whole and single.source("teacher", cfg) is single
    cut = Checkpoint({**_content("architecture.", "distiller."), "meta": {"teacher_ckpt": str(own)}}, "cut.pth")
    assert cut.source("student", cfg) is cut
    assert cut.source("teacher", cfg).name == cfg.model.teacher_ckpt, "the configuration's precedes"
    cfg.model.teacher_ckpt = None
    assert cut.source("teacher", cfg).name == str(own)
    own.unlink()
    with pytest.raises(FileNotFoundError, match="cut.pth holds no teacher, and its teacher_ckpt is .*own.pth"):
        cut.source("teacher", cfg)


def test_a_teacher_is_kept_and_weights_are_halved_where_they_can_be():
    teacher = torch.nn.Linear(1, 1)
    loaded = Checkpoint(_content("architecture.", "teacher.", wrapper="module."))
    loaded.keep_teacher(teacher)
    assert set(loaded.content["state_dict"]) == {"module.architecture.weight", "teacher.weight", "teacher.bias"}
    assert torch.equal(loaded.content["state_dict"]["teacher.weight"], teacher.weight)
    shrunk = Checkpoint({"state_dict": {"a": torch.ones(2), "b": torch.tensor([1e9]), "c": torch.tensor(3)}}).shrunk()
    kinds = {name: value.dtype for name, value in shrunk["state_dict"].items()}
    assert kinds == {"a": torch.float16, "b": torch.float32, "c": torch.int64} and shrunk["meta"] == {}


@pytest.fixture()
def reads(monkeypatch):
    """Returns how often each file was opened by the function that every checkpoint goes through, by the file's name."""
    counts: Counter = Counter()
    read = checkpoint_files.load_safely

    def counting(file):
        counts[Path(file).name] += 1
        return read(file)

    monkeypatch.setattr(checkpoint_files, "load_safely", counting)
    return counts


@pytest.fixture(scope="module")
def run(tmp_path_factory, mini_data):
    """Returns configuration and checkpoint of a run of one iteration."""
    folder = tmp_path_factory.mktemp("reads")
    config = folder / "config.py"
    config.write_text(
        f"_base_ = ['{CANKD}']\nteacher_ckpt = '{TEACHER}'\n"
        f"model = dict(architecture=dict(init_cfg=dict(type='Pretrained', checkpoint='{folder}/student.pth')))\n"
        f"train_dataloader = dict(dataset=dict(data_root='{mini_data}/'), num_workers=0, persistent_workers=False)\n"
        f"val_dataloader = dict(dataset=dict(data_root='{mini_data}/'), num_workers=0, persistent_workers=False)\n"
        f"val_evaluator = dict(ann_file='{mini_data}/annotations/val.json')\n"
        "test_dataloader = val_dataloader\ntest_evaluator = val_evaluator\n"
        "train_cfg = dict(max_iters=1, val_interval=9)\n"
        "default_hooks = dict(checkpoint=dict(type='DistillCheckpointHook', interval=1, max_keep_ckpts=-1))\n"
    )
    weights = load_checkpoint_file(TEACHER)["state_dict"]
    torch.save({"state_dict": weights}, folder / "student.pth")
    call_tool("train.py", config, "--work-dir", folder / "run")
    return config, folder / "run" / "iter_1.pth"


@pytest.mark.slow
def test_a_starting_run_reads_each_file_once_and_releases_it(mini_data, run, reads, tmp_path):
    config, checkpoint = run
    call_tool("train.py", config, "--work-dir", tmp_path / "fresh")
    assert reads == {TEACHER.name: 1, "student.pth": 1}
    reads.clear()
    options = ["--resume", "--cfg-options", "train_cfg.max_iters=2"]
    call_tool("train.py", config, "--work-dir", checkpoint.parent, *options)
    assert reads == {TEACHER.name: 1, checkpoint.name: 1, "student.pth": 1}
    assert checkpoint_files._kept is None


def test_what_uses_a_checkpoint_reads_it_once(run, reads, tmp_path):
    config, checkpoint = run
    call_tool("model_converters/convert_kd_ckpt_to_student.py", checkpoint, "--out-path", tmp_path)
    assert reads == {checkpoint.name: 1}
    reads.clear()
    call_tool("test.py", config, checkpoint, "--work-dir", tmp_path / "test")
    assert reads == {checkpoint.name: 1}
    reads.clear()
    load_distillation(config, checkpoint)
    assert reads == {checkpoint.name: 1, TEACHER.name: 1}


def test_a_file_that_has_changed_is_read_again(reads, tmp_path):
    file = tmp_path / "a.pth"
    checkpoint_files.keep_what_is_read()
    try:
        for value in (1, 2):
            torch.save({"state_dict": {"weight": torch.full((value,), value)}}, file)
            first, second = (load_checkpoint_file(file) for _ in range(2))
            del first["state_dict"]["weight"]  # what one reader does to it, the next must not see
            assert second["state_dict"]["weight"].sum() == value**2 and reads[file.name] == value
    finally:
        checkpoint_files.release_what_was_read()
