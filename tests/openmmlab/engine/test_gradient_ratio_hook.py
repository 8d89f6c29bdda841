"""The weight that keeps the ratio of the gradients: the measured ratio, and real runs."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from cankd.openmmlab.checkpoint_files import load_checkpoint_file
from cankd.openmmlab.engine import GradientRatioHook
from cankd.openmmlab.engine.distill_monitor_hook import GradientShares
from tests.conftest import free_port, run_command
from tests.demo import CANKD, DATA, records_of
from tests.in_process import call_tool
from tests.openmmlab.engine.test_distill_monitor_hook import _algorithm


def _measured(algorithm, batch, scale: float = 1.0, loss_scale: float = 1.0) -> float:
    shares = GradientShares(algorithm, loss_scale, through=True)
    total, _ = algorithm.parse_losses(algorithm(**batch, mode="loss"))
    (scale * total).backward()
    shares.finish()
    distilled, task = shares.squares()
    return (distilled / task) ** 0.5


@pytest.mark.parametrize("kind", ["PartialTeacherDistill", "CrossKD"])
def test_the_ratio_is_that_of_separate_backward_passes(kind):
    algorithm, batch = _algorithm(kind)
    algorithm.distill_weight, algorithm.ratio_weight = 0.5, 1e-7
    measured = _measured(algorithm, batch, scale=8.0)
    maps: dict[str, list] = {"backbone": [], "neck": []}  # what the losses read: PKD backbone[2], FGD neck[0]
    handles = [
        getattr(algorithm.student, name).register_forward_hook(
            lambda module, inputs, out, name=name: maps[name].extend(out)
        )
        for name in maps
    ]
    losses = algorithm(**batch, mode="loss")
    for handle in handles:
        handle.remove()
    read = [maps["backbone"][2], *(maps["neck"] if kind == "CrossKD" else maps["neck"][:1])]

    def norm(of_task: bool) -> float:
        chosen = {name: loss for name, loss in losses.items() if name.startswith("student.") == of_task}
        total, _ = algorithm.parse_losses(chosen)
        found = torch.autograd.grad(total, read, retain_graph=True, allow_unused=True)
        return torch.cat([gradient.flatten() for gradient in found if gradient is not None]).norm().item()

    assert measured == pytest.approx(norm(False) / norm(True), rel=1e-3)
    algorithm.ratio_weight = 2e-7  # the task's part has nothing of the distillation's, not even where maps depend
    assert _measured(algorithm, batch) == pytest.approx(2 * measured, rel=1e-3)


def test_gradients_of_half_precision_maps_do_not_vanish():
    algorithm, batch = _algorithm("PartialTeacherDistill")
    algorithm.ratio_weight = 1e-6
    expected = _measured(algorithm, batch)
    neck, head = algorithm.student.neck, algorithm.student.bbox_head
    neck.register_forward_hook(lambda module, inputs, maps: tuple(m.half() for m in maps), prepend=True)
    head.register_forward_pre_hook(lambda module, inputs: (tuple(m.float() for m in inputs[0]), *inputs[1:]))
    assert _measured(algorithm, batch, scale=2.0**12, loss_scale=2.0**12) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("wrong", [dict(ratio=0), dict(interval=0), dict(momentum=1.5)])
def test_a_wrong_argument_is_refused_in_one_line(wrong):
    with pytest.raises(ValueError, match="expected a ratio above 0") as error:
        GradientRatioHook(**wrong)
    assert "\n" not in str(error.value)


# The same batch in each iteration, in one process.
RUN = """
_base_ = ['{base}']
custom_imports = dict(imports=['cankd.openmmlab', 'tests.recording'])
{data}
train_dataloader['dataset'].update(indices=4)
train_dataloader.update(batch_size=4, sampler=dict(_delete_=True, type='DefaultSampler', shuffle=False))
optim_wrapper = dict(optimizer=dict(lr=1e-6), accumulative_counts={accumulated})
param_scheduler = []
train_cfg = dict(max_iters=9, val_interval=10)
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(interval=4, max_keep_ckpts=-1), distill_monitor=dict(interval=2))
custom_hooks = [{hooks}]
"""
SCHEDULE = "dict(type='DistillWeightHook', weight=2, warmup=1, decay='cosine', begin=7, end=8)"


def _train(folder: Path, data: Path, hooks: str, *more: str, accumulated: int = 1) -> list[dict]:
    """Trains the quickstart's pair; returns the logged scalars of each step."""
    folder.mkdir(exist_ok=True)
    values = dict(base=CANKD, data=DATA.format(data=data), hooks=hooks, accumulated=accumulated)
    (folder / "config.py").write_text(RUN.format(**values))
    call_tool("train.py", folder / "config.py", "--work-dir", folder / "run", *more)
    lines = [json.loads(line) for file in (folder / "run").glob("*/vis_data/scalars.json") for line in file.open()]
    return [line for line in lines if "loss" in line]


def _column(lines: list[dict], name: str) -> list[float]:
    return [line[f"distill_ratio/{name}"] for line in lines]


@pytest.mark.slow
def test_the_ratio_is_reached_under_a_schedule_and_resumes_exactly(mini_data, tmp_path):
    hooks = f"dict(type='GradientRatioHook', ratio=0.5, interval=1, momentum=0), {SCHEDULE}"
    lines = _train(tmp_path / "whole", mini_data, hooks, accumulated=2)
    measured, weights = _column(lines, "measured"), _column(lines, "weight")
    # The warm-up's first weight is 0, which gives no ratio; then the weight falls by up to a factor of 10 a time.
    assert measured[0] == 0 and weights[:3] == [1, 1, 0.1] and measured[1] > 50
    assert measured[6] == pytest.approx(2 * 0.5, rel=0.05)
    assert measured[8] == weights[8] == 0 and weights[7] > 0  # stopped at iteration 8
    (tmp_path / "resumed/run").mkdir(parents=True)
    shutil.copy(tmp_path / "whole/run/iter_4.pth", tmp_path / "resumed/run")
    resumed = _train(tmp_path / "resumed", mini_data, hooks, "--resume", accumulated=2)
    assert [_column(resumed, name) for name in ("measured", "weight")] == [measured[4:], weights[4:]]
    states = [load_checkpoint_file(tmp_path / run / "run/iter_9.pth")["state_dict"] for run in ("whole", "resumed")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.slow
def test_measuring_alone_changes_nothing(mini_data, tmp_path):
    plain = _train(tmp_path / "plain", mini_data, "")
    lines = _train(tmp_path / "measured", mini_data, "dict(type='GradientRatioHook', interval=1, momentum=1)")
    states = [load_checkpoint_file(tmp_path / run / "run/iter_9.pth") for run in ("plain", "measured")]
    weights = [state["state_dict"] for state in states]
    assert list(weights[0]) == list(weights[1])
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert [line["loss"] for line in plain] == [line["loss"] for line in lines]
    assert _column(lines, "weight") == [1] * 9 and min(_column(lines, "measured")) > 0
    shares = [{name: line[name] for name in line if "share" in name} for line in (*plain, *lines)]
    assert shares[:9] == shares[9:] and len(shares[8]) == 4 and min(shares[8].values()) > 0.1


@pytest.mark.slow
def test_two_processes_use_one_weight(mini_data, tmp_path):
    config, hooks = (
        tmp_path / "config.py",
        "dict(type='RecordingHook'), dict(type='GradientRatioHook', ratio=0.5, interval=1)",
    )
    values = dict(base=CANKD, data=DATA.format(data=mini_data), hooks=hooks, accumulated=1)
    config.write_text(RUN.format(**values))
    command = ["bash", "tools/dist_train.sh", str(config), "2", "--work-dir", str(tmp_path / "run")]
    run_command(*command, PYTHON=sys.executable, PORT=free_port(), OMP_NUM_THREADS="1", timeout=300)
    first, second = ([record["ratio_weight"] for record in records_of(tmp_path / "run", rank)] for rank in (0, 1))
    assert first == second and len(set(first)) > 4
    losses = [[record["losses"]["loss"] for record in records_of(tmp_path / "run", rank)] for rank in (0, 1)]
    assert losses[0] != losses[1]  # each process measured another batch
