"""Runs that are killed and go on: nothing is lost, and nothing keeps running."""

from __future__ import annotations

import json
import os
import re
import resource
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import CheckpointHook

from cankd.openmmlab.checkpoint_files import UnsafeCheckpoint, load_checkpoint_file
from cankd.openmmlab.configs import read_config
from cankd.openmmlab.engine import Runner
from cankd.openmmlab.engine.resuming import find_checkpoint
from tests.conftest import free_port, run_command
from tests.in_process import call_tool
from tests.kill_runs import SAVE_BEST, differences, final, killed_runs, write_config
from tests.processes import processes_of

STEPS = 8


@pytest.fixture(scope="module")
def config(tmp_path_factory, mini_data) -> Path:
    """A distillation with random augmentation, checkpoints at every second step and validations at every third."""
    return write_config(tmp_path_factory.mktemp("config") / "config.py", mini_data, STEPS)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, config) -> Path:
    """The work dir of the same run, not interrupted, from initial weights that nothing on the way could change."""
    work_dir = tmp_path_factory.mktemp("whole") / "run"
    killed_runs(config, work_dir, [None])
    return work_dir


@pytest.mark.slow
def test_killed_runs_end_in_the_same_bits(config, whole_run, tmp_path):
    work_dir, seedless = tmp_path / "run", tmp_path / "seedless.py"
    # While a file is written that must not replace a whole one, or an old one goes; then after a step.
    moments: list[str | float] = [
        "open iter_4.pth write",
        "open last_checkpoint written",
        "os.remove iter_4.pth after",
        0.0,
    ]
    printed = killed_runs(config, work_dir, moments)
    seedless.write_text(config.read_text() + "randomness = dict(seed=None)\n")  # a drawn seed is that of the beginning
    printed += killed_runs(seedless, work_dir, [None])
    assert "holds no checkpoint; training starts anew" in printed[0]
    assert "resumed epoch: 0, iter: 2" in printed[1]
    for after in printed[1:]:
        assert "resumed epoch: 0, iter: " in after and "starts afresh" not in after and "differ from" not in after
    assert differences(final(work_dir, STEPS), final(whole_run, STEPS)) == []
    files = {file.name for file in work_dir.iterdir() if file.is_file()}
    assert files == {"iter_8.pth", "last_checkpoint", "config.py", "seedless.py"}


@pytest.mark.slow
def test_two_processes_with_unequal_boxes_go_on_after_one_is_killed(config, mini_data, tmp_path):
    boxes = json.loads((mini_data / "annotations/train.json").read_text())
    boxes["annotations"] = [box for box in boxes["annotations"] if box["image_id"] in (0, 1)]  # six images are empty
    (tmp_path / "train.json").write_text(json.dumps(boxes))
    command = ["bash", "tools/dist_train.sh", str(config), "2", "--work-dir", str(tmp_path / "run"), "--resume"]
    options = [f"train_dataloader.dataset.ann_file={tmp_path}/train.json", "randomness.diff_rank_seed=True"]
    command += ["--cfg-options", *options]
    environment: dict[str, Any] = dict(PORT=free_port(), OMP_NUM_THREADS="1")
    done = run_command(*command, check=False, timeout=300, KILL_AT="os.rename iter_4.pth now", **environment)
    assert done.returncode != 0 and not processes_of(tmp_path)
    done = run_command(*command, **environment)
    assert "resumed epoch: 0, iter: 2" in done.stdout
    checkpoint = load_checkpoint_file(tmp_path / "run" / f"iter_{STEPS}.pth")
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    first, second = checkpoint["random_state"]
    assert differences(first["numpy"], second["numpy"])


def _resume(whole_run: Path, work_dir: Path, config: Path, steps: int, *options: str, **parts: Any) -> str:
    """What a run of some steps prints that resumes from the last checkpoint with other or without (None) some parts."""
    checkpoint = {**load_checkpoint_file(whole_run / f"iter_{STEPS}.pth"), **parts}
    work_dir.mkdir(exist_ok=True)
    torch.save({key: part for key, part in checkpoint.items() if part is not None}, work_dir / "iter_8.pth")
    options = ("--cfg-options", f"train_cfg.max_iters={steps}", *options)
    return call_tool("train.py", config, "--work-dir", work_dir, "--resume", *options).stdout


@pytest.mark.slow
def test_what_a_resumed_run_passes_over_and_starts_afresh_is_said(config, whole_run, tmp_path):
    (tmp_path / "last_checkpoint").write_text(f"{tmp_path}/iter_12.pth")
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "iter_10_student.pth")
    (tmp_path / "iter_10.pth").touch()
    later = time.time() + 3600
    os.utime(tmp_path / "iter_10.pth", (later, later))
    parts = ("optimizer", "param_schedulers", "random_state")
    weights = f"load_from={tmp_path}/iter_10_student.pth"  # where the run began
    printed = _resume(whole_run, tmp_path, config, STEPS + 1, weights, **dict.fromkeys(parts))
    said = re.findall("WARNING - --resume: (.*)", printed)
    expected = [
        "iter_12.pth, expected an existing",
        "iter_10.pth: cannot be read",
        "no optimizer",
        "no random",
        "no state of",
    ]
    assert len(said) == len(expected) and all(part in line for part, line in zip(expected, said)), said
    assert f"Iter(train) [{STEPS + 1}/{STEPS + 1}]" in printed


@pytest.mark.slow
def test_the_random_states_of_other_processes_are_left_out(config, whole_run, tmp_path):
    printed = _resume(whole_run, tmp_path / "run", config, STEPS, random_state=[{}, {}])
    assert "holds the random states of 2 processes, this run has 1" in printed


@pytest.mark.slow
def test_a_full_disk_costs_no_checkpoint(mini_data, tmp_path):
    cfg = read_config(write_config(tmp_path / "config.py", mini_data, 2, SAVE_BEST))
    cfg.work_dir = str(tmp_path / "run")
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    runner = Runner.from_cfg(cfg)
    runner.train()
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    hook.after_val_epoch(runner, {"coco/bbox_mAP": 0.25})
    runner.train_loop._iter = 3
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            hook.after_train_iter(runner, 3)
        with pytest.raises(OSError, match="File too large"):
            hook.after_val_epoch(runner, {"coco/bbox_mAP": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "state_dict" in load_checkpoint_file(tmp_path / "run" / "best_coco_bbox_mAP_iter_2.pth")
    assert _found(tmp_path / "run") == str(tmp_path / "run" / "iter_2.pth")
    assert not list((tmp_path / "run").glob("*.part"))


def _found(work_dir: Path) -> str:
    found = find_checkpoint(work_dir)
    return found[0] if found else ""


def _checkpoint(file: Path, **parts: object) -> Path:
    torch.save({"state_dict": {}, "message_hub": {}, "meta": {"epoch": 0, "iter": 2}, **parts}, file)
    return file


class Code:
    """Runs when a file that holds it is unpickled without care."""

    def __reduce__(self):
        return os.system, ("exit 1",)


def test_the_newest_whole_checkpoint_is_found(tmp_path):
    assert find_checkpoint(tmp_path) is None
    _checkpoint(tmp_path / "best_x_iter_2.pth")
    assert _found(tmp_path) == str(tmp_path / "best_x_iter_2.pth")
    meta = {"epoch": 1, "iter": 10}
    old, new = _checkpoint(tmp_path / "iter_2.pth"), _checkpoint(tmp_path / "iter_10.pth", meta=meta)
    os.utime(old, (1, 1))
    assert find_checkpoint(tmp_path) == (str(new), meta)
    pointer = tmp_path / "last_checkpoint"
    pointer.write_text(str(old))
    assert _found(tmp_path) == str(old)
    for text in ("", "\0" * 10, str(tmp_path / "iter_12.pth")):
        pointer.write_text(text)
        assert _found(tmp_path) == str(new)
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "iter_10_student.pth")  # what a converter wrote
    pointer.write_text(str(new))
    new.write_bytes(new.read_bytes()[:-100])
    assert _found(tmp_path) == str(old)
    new.write_bytes(b"")
    assert _found(tmp_path) == str(old)
    pointer.write_text("s3://bucket/iter_2.pth")
    assert find_checkpoint(tmp_path) == ("s3://bucket/iter_2.pth", {})


def test_a_checkpoint_that_carries_code_is_not_passed_over(tmp_path):
    _checkpoint(tmp_path / "iter_2.pth")
    torch.save({"meta": Code()}, tmp_path / "iter_4.pth")
    with pytest.raises(UnsafeCheckpoint, match="iter_4.pth"):
        find_checkpoint(tmp_path)
