"""The distillation's share of the gradient: its value, that it changes nothing else, and in real runs."""

from __future__ import annotations

import copy
import json
import sys
import time
from pathlib import Path

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmrazor.registry import MODELS

from cankd.openmmlab.checkpoint_files import load_checkpoint_file
from cankd.openmmlab.configs import read_config
from cankd.openmmlab.doctor.subject import build_subject, take_batch
from cankd.openmmlab.engine import DistillMonitorHook
from cankd.openmmlab.engine.distill_monitor_hook import GradientShares
from tests.conftest import free_port, run_command
from tests.demo import CANKD, DATA
from tests.in_process import call_tool
from tests.openmmlab.engine.test_distill_weight_hook import GFL, POINTS

MONITORED = """
_base_ = ['{base}']
{data}
train_cfg = dict(max_iters={iterations}, val_interval=9)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=3), distill_monitor={monitor})
custom_hooks = {hooks}
"""


def _algorithm(kind: str):
    algorithm = MODELS.build(dict(type=kind, architecture=GFL, teacher=GFL, distiller=POINTS)).train()
    torch.manual_seed(0)
    algorithm.init_weights()
    data = demo_mm_inputs(2, [[3, 64, 64]] * 2, num_items=[3, 2], num_classes=10)
    return algorithm, algorithm.data_preprocessor(data, True)


def _shares(algorithm, batch, scale: float = 1.0) -> dict[str, float]:
    shares = GradientShares(algorithm)
    total, _ = algorithm.parse_losses(algorithm(**batch, mode="loss"))
    (scale * total).backward()
    return shares.finish()


@pytest.mark.parametrize("kind", ["PartialTeacherDistill", "CrossKD"])
def test_the_shares_are_those_of_separate_backward_passes(kind):
    algorithm, batch = _algorithm(kind)
    algorithm.distill_weight = 0.5
    found = _shares(algorithm, batch)
    assert "loss" not in vars(algorithm) and "compute_distill_losses" not in vars(algorithm.distiller)
    maps = []
    handle = algorithm.student.neck.register_forward_hook(lambda module, inputs, outputs: maps.extend(outputs))
    losses = algorithm(**batch, mode="loss")
    handle.remove()
    fgd = sum(value for name, value in losses.items() if name.startswith("distill.loss_neck0."))
    crossed = sum((value for name, value in losses.items() if name.startswith("crosskd.")), torch.zeros(()))
    (ours,) = torch.autograd.grad(fgd, maps[0], retain_graph=True)
    total, _ = algorithm.parse_losses(losses)
    everything = torch.autograd.grad(total, maps, retain_graph=True)
    theirs = torch.zeros_like(ours)
    if kind == "CrossKD":
        (theirs,) = torch.autograd.grad(crossed, maps[0])
        assert {f"crosskd.{level}" for level in range(5)} < set(found)
    task = everything[0] - ours - theirs
    expected = ours.norm() / (task.norm() + ours.norm() + theirs.norm())
    assert found["loss_neck0"] == pytest.approx(expected.item(), rel=1e-4) and 0 < found["loss_backbone2"] < 1


def test_shares_do_not_depend_on_the_scale_of_the_total_loss():
    algorithm, batch = _algorithm("PartialTeacherDistill")
    first, scaled = _shares(algorithm, batch), _shares(algorithm, batch, 1024.0)
    assert first == pytest.approx(scaled, rel=1e-4) and len(first) == 2


def test_an_interval_below_one_is_refused():
    with pytest.raises(ValueError, match="got interval=0, expected at least 1"):
        DistillMonitorHook(interval=0)


def _train(folder: Path, data: Path, monitor: str, iterations: int = 3, hooks: str = "[]") -> tuple[dict, list[dict]]:
    """Trains the quickstart's pair; returns the checkpoint's tensors and the logged scalars."""
    folder.mkdir()
    values = dict(base=CANKD, data=DATA.format(data=data), monitor=monitor, iterations=iterations, hooks=hooks)
    (folder / "config.py").write_text(MONITORED.format(**values))
    call_tool("train.py", folder / "config.py", "--work-dir", folder / "run")
    return load_checkpoint_file(folder / "run/iter_3.pth")["state_dict"], _steps(folder / "run")


def _steps(work_dir: Path) -> list[dict]:
    """Returns the logged scalars of each training step."""
    (file,) = work_dir.glob("*/vis_data/scalars.json")
    return [line for line in map(json.loads, file.open()) if "loss" in line]


def _logged(line: dict) -> dict[str, float]:
    return {name: value for name, value in line.items() if name.startswith("distill_share/")}


@pytest.mark.slow
def test_measuring_changes_no_weight_and_is_logged(mini_data, tmp_path):
    plain, without = _train(tmp_path / "plain", mini_data, "None")
    measured, lines = _train(tmp_path / "measured", mini_data, "dict(interval=2)")
    assert list(plain) == list(measured) and all(torch.equal(value, measured[name]) for name, value in plain.items())
    assert [line["loss"] for line in without] == [line["loss"] for line in lines]
    assert not _logged(lines[0]) and not any(map(_logged, without))
    assert set(_logged(lines[1])) == {f"distill_share/fpn{level}" for level in range(4)}
    assert all(0 < share <= 1 for share in _logged(lines[1]).values())


@pytest.mark.slow
def test_shares_are_zero_once_the_distillation_is_stopped(mini_data, tmp_path):
    hooks = "[dict(type='DistillWeightHook', decay='cosine', end=2)]"
    _, lines = _train(tmp_path / "stopped", mini_data, "dict(interval=1)", hooks=hooks)
    assert all(share > 0 for share in _logged(lines[0]).values())
    assert set(_logged(lines[2]).values()) == {0.0}


@pytest.mark.slow
def test_two_processes_measure_together(mini_data, tmp_path):
    config = tmp_path / "config.py"
    values = dict(base=CANKD, data=DATA.format(data=mini_data), iterations=3, monitor="dict(interval=1)", hooks="[]")
    config.write_text(MONITORED.format(**values))
    command = ["bash", "tools/dist_train.sh", str(config), "2", "--work-dir", str(tmp_path / "run")]
    run_command(*command, PYTHON=sys.executable, PORT=free_port(), OMP_NUM_THREADS="1", timeout=300)
    assert [len(_logged(line)) for line in _steps(tmp_path / "run")] == [4, 4, 4]


@pytest.mark.slow
def test_measuring_costs_less_than_a_hundredth_of_a_run():
    subject = build_subject(read_config(CANKD))
    take_batch(subject, "synthetic")
    algorithm = subject.algorithm
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for number in range(12):
        measured = number % 2 == 1
        began = time.process_time()
        data = algorithm.data_preprocessor(copy.deepcopy(subject.batch), True)
        shares = GradientShares(algorithm) if measured else None
        total, _ = algorithm.parse_losses(algorithm(**data, mode="loss"))
        total.backward()
        if shares is not None:
            shares.finish()
        if number > 1:
            seconds[measured].append(time.process_time() - began)
    plain, with_shares = (min(seconds[measured]) for measured in (False, True))
    assert (with_shares - plain) / plain / DistillMonitorHook().interval < 0.01
    assert with_shares < 3 * plain
