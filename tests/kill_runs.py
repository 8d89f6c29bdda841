"""Kills trainings and resumes them; ``python -m tests.kill_runs FOLDER [--seed N] [--random N]`` runs the full set.

Every training is a process of its own, and every kill a SIGKILL. A moment is either what ``tests.killing``
names or a number of seconds after the process's first training step.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import re
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import torch

from cankd.openmmlab.checkpoint_files import load_checkpoint_file
from tests.conftest import ROOT, run_command

CONFIG = """
_base_ = ['{root}/configs/demo/quickstart_cankd.py']
custom_imports = dict(imports=['cankd.openmmlab', 'tests.killing'])
data_root = '{data}/'
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale=(96, 96), ratio_range=(0.8, 1.2), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(80, 80), allow_negative_crop=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(batch_size=2, dataset=dict(data_root=data_root, pipeline=pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_iters={iterations}, val_interval=3)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2, max_keep_ckpts=1, save_optimizer=True{best}))
"""
SAVE_BEST = ", save_best='coco/bbox_mAP', rule='greater'"


def write_config(file: Path, data: Path, iterations: int, best: str = "") -> Path:
    """Writes a quickstart with random augmentation that saves at every second step and validates at every third."""
    file.write_text(CONFIG.format(root=ROOT, data=data, iterations=iterations, best=best))
    return file


def _train(arguments: list[str], log: Path, moment: Any) -> None:
    """Runs tools/train.py in this process, which has all libraries imported."""
    with log.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    if isinstance(moment, str):
        os.environ["KILL_AT"] = moment
    sys.argv = ["train.py", *arguments]
    runpy.run_path(str(ROOT / "tools/train.py"), run_name="__main__")


def killed_runs(config: Path, work_dir: Path, moments: Sequence[str | float | None]) -> list[str]:
    """Starts a training for each moment, kills it then, and resumes it with the next; at None it runs to its end.

    Every run is a process of its own; a server that has imported the libraries forks them.

    Returns:
        The output of each run.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cankd.openmmlab.engine", "mmdet.apis"])
    printed = []
    for moment in moments:
        log = work_dir.with_name(f"{work_dir.name}_{len(list(work_dir.parent.glob('*.log')))}.log")
        arguments = [str(config), "--work-dir", str(work_dir), "--resume"]
        process = context.Process(target=_train, args=(arguments, log, moment))
        process.start()
        if isinstance(moment, float):
            while process.is_alive() and not (log.is_file() and "Iter(train)" in log.read_text()):
                time.sleep(0.01)
            time.sleep(moment)
            process.kill()
        process.join()
        printed.append(log.read_text())
        expected = 0 if moment is None else -signal.SIGKILL
        assert process.exitcode == expected, f"{moment}: ended with {process.exitcode}.\n{printed[-1][-3000:]}"
    return printed


def differences(one: Any, other: Any, name: str = "") -> list[str]:
    """Returns the names of the values that differ, in any bit, between two checkpoints or parts of them."""
    if type(one) is not type(other):
        return [name]
    if isinstance(one, dict):
        if set(one) != set(other):
            return [name]
        return [found for key in one for found in differences(one[key], other[key], f"{name}.{key}")]
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return [name]
        return [found for at, pair in enumerate(zip(one, other)) for found in differences(*pair, f"{name}.{at}")]
    same = torch.equal(one, other) if isinstance(one, torch.Tensor) else np.array_equal(one, other)
    return [] if same else [name]


PARTS = ("state_dict", "optimizer", "param_schedulers", "random_state")


def final(work_dir: Path, iterations: int) -> dict:
    """Returns the parts of a run's last checkpoint that must equal another run's."""
    checkpoint = load_checkpoint_file(work_dir / f"iter_{iterations}.pth")
    return {part: checkpoint[part] for part in PARTS}


def worst_moments(step: int) -> dict[str, str]:
    """Returns moments while the checkpoint of a step is saved, by name, for ``tests.killing``."""
    return {
        "the new checkpoint is empty": f"open iter_{step}.pth write",
        "the new checkpoint is written, but not closed": f"open iter_{step}.pth written",
        "the new checkpoint is about to get its name": f"os.rename iter_{step}.pth now",
        "the new checkpoint just got its name": f"os.rename iter_{step}.pth after",
        "last_checkpoint is empty": "open last_checkpoint write",
        "last_checkpoint is written, but not closed": "open last_checkpoint written",
        "last_checkpoint is about to get its name": "os.rename last_checkpoint now",
        "last_checkpoint just got its name": "os.rename last_checkpoint after",
        "the old checkpoint is about to be removed": f"os.remove iter_{step - 2}.pth now",
        "the old checkpoint was just removed": f"os.remove iter_{step - 2}.pth after",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    parser.add_argument("--random", type=int, default=12, help="kills at random moments")
    parser.add_argument("--iterations", type=int, default=40)
    args = parser.parse_args()
    args.folder = args.folder.resolve()
    args.folder.mkdir(parents=True)
    data = args.folder / "data"
    make_data = [sys.executable, "tools/dataset_tools/make_quickstart_data.py", "--out", str(data)]
    run_command(*make_data, "--train", "8", "--val", "8")
    config = write_config(args.folder / "config.py", data, args.iterations)
    began = time.time()
    killed_runs(config, args.folder / "whole", [None])
    expected = final(args.folder / "whole", args.iterations)
    sys.stdout.write(f"The uninterrupted run of {args.iterations} steps: {time.time() - began:.0f} s\n")

    # Each moment comes up in a run that resumes before it.
    worst = [(name, worst_moments(4 + 2 * at)[name]) for at, name in enumerate(worst_moments(0))]
    draw = random.Random(args.seed)
    delays = [draw.uniform(0, 3) for _ in range(args.random)]
    failed = False
    chosen = [(f"{delay:.2f} s after its first step", delay) for delay in delays]
    for title, kills in (("worst", worst), ("random", chosen)):
        work_dir = args.folder / title
        printed = killed_runs(config, work_dir, [*(moment for _, moment in kills), None])
        for (name, _), after in zip(kills, printed[1:]):
            said = re.findall(r" - (--resume: .*|resumed .*)", after)
            sys.stdout.write(f"killed when {name}: {' | '.join(said)}\n".replace(f"{args.folder}/", ""))
        different = differences(final(work_dir, args.iterations), expected)
        left = ", ".join(sorted(file.name for file in work_dir.iterdir() if file.is_file()))
        sys.stdout.write(f"{len(kills)} {title} moments: {len(different)} final values differ; files left: {left}\n")
        failed |= bool(different)
    sys.exit(failed)


if __name__ == "__main__":
    main()
