"""Runs of the quickstart's pair, which most tests of a training use."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import ROOT

DEMO = ROOT / "configs/demo"
STUDENT, TEACHER, CANKD = (DEMO / f"quickstart_{name}.py" for name in ("student", "teacher", "cankd"))
TEACHER_CKPT = DEMO / "quickstart_teacher.pth"
# One iteration on the mini data; `data` is its folder.
DATA = """
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(data_root='{data}/'))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root='{data}/'))
test_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root='{data}/'))
val_evaluator = dict(ann_file='{data}/annotations/val.json')
test_evaluator = dict(ann_file='{data}/annotations/val.json')
train_cfg = dict(max_iters=1, val_interval=2)
"""


def options_for(data: Path, teacher: Path, iterations: int = 3) -> list[str]:
    """Arguments of train.py and test.py for a few iterations on the mini data."""
    pieces = {
        "teacher_ckpt": teacher,
        "train_dataloader.dataset.data_root": f"{data}/",
        "val_dataloader.dataset.data_root": f"{data}/",
        "test_dataloader.dataset.data_root": f"{data}/",
        "val_evaluator.ann_file": data / "annotations/val.json",
        "test_evaluator.ann_file": data / "annotations/val.json",
        "train_dataloader.batch_size": 4,
        "train_cfg.max_iters": iterations,
        "train_cfg.val_interval": iterations,
        "default_hooks.checkpoint.interval": iterations,
        "default_hooks.logger.interval": 1,
    }
    return ["--cfg-options", *(f"{key}={value}" for key, value in pieces.items())]


def records_of(work_dir: Path, rank: int = 0) -> list[dict]:
    """What tests.recording wrote of each iteration of a process."""
    return [json.loads(line) for line in (work_dir / f"rank{rank}.jsonl").read_text().splitlines()]


class Code:
    """Writes a file when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return (Path.write_text, (self.witness, "ran"))
