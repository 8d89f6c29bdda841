"""Every leaf trains: the real command on a few images in the real layout (see tests/train_leaf.py)."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from mmengine.config import Config

from cankd.checkpoint import load_checkpoint_file
from cankd.stack import CLASSIFICATION
from tests.conftest import ROOT, run_command

pytestmark = pytest.mark.slow

LEAVES = {path.stem: path for path in sorted((ROOT / "configs" / "distill").glob("*/cankd/*.py"))}
# All train on the modern stack; on the paper stack one of each kind, all of which build there.
ONE_OF_EACH_KIND = [
    "cankd-dagger_fpn_faster-rcnn_r101_faster-rcnn_r50_2x_coco",
    "cankd_neck_dino_r101_dino_r50_12e_coco",
    "cankd_neck_grounding-dino_r101_grounding-dino_r50_1x_coco",
    "cankd_backbone_pspnet_r101_pspnet_r18_80k_cityscapes",
    "cankd_backbone_resnet50_mobilenet-v1_8xb32_in1k",
]
TRAINED = list(LEAVES) if CLASSIFICATION == "mmpretrain" else ONE_OF_EACH_KIND
IMAGES = {"coco": 6, "objects365": 6, "cityscapes": 6, "imagenet": 96}  # three iterations, or as many as needed


def _size(name: str) -> int:
    """Pixels of an image's side: 900 queries need as many positions, and P6 must hold the pool."""
    if "neck_" in name:
        return 320
    return {"pool4": 256, "pool8": 512}.get(name.split("_")[0].replace("cankd-", ""), 128)


@pytest.fixture(scope="session")
def layouts(tmp_path_factory, run_tool) -> Path:
    """A folder with mini data in each of the four layouts."""
    out = tmp_path_factory.mktemp("layouts")
    for layout, count in IMAGES.items():
        run_tool("dataset_tools/make_mini.py", "--layout", layout, "--out", out / layout, "--train", count, "--val", 2)
    return out


@pytest.fixture(scope="session")
def runs(request, layouts, tmp_path_factory):
    """The runs of all leaves that were asked for, one for each core at a time: name -> future of (log, work dir)."""
    folder = tmp_path_factory.mktemp("runs")

    def train(name: str) -> tuple[str, Path]:
        command = [sys.executable, "-W", "ignore", "-m", "tests.train_leaf", LEAVES[name], layouts, _size(name)]
        done = run_command(
            *map(str, [*command, folder / name, folder / "teachers"]), OMP_NUM_THREADS="1", timeout=1800, check=False
        )
        return done.stdout, folder / name

    names = [item.callspec.params["name"] for item in request.session.items if "test_leaf_trains" in item.nodeid]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        futures: dict[str, Future] = {name: pool.submit(train, name) for name in names}
        yield futures
        for future in futures.values():
            future.cancel()
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", TRAINED)
def test_leaf_trains(name, runs):
    log, work_dir = runs[name].result()
    assert (work_dir / "rank0.jsonl").exists(), log[-6000:]
    records = [json.loads(line) for line in (work_dir / "rank0.jsonl").read_text().splitlines()]
    cfg = Config.fromfile(LEAVES[name])
    losses = cfg.model.distiller.distill_losses
    assert len(records) == 3, log[-6000:]
    for record in records:
        assert {f"distill.{loss}" for loss in losses} <= set(record["losses"])
        assert all(math.isfinite(value) for value in record["losses"].values())
        assert "teacher" not in record["gradients"]
    last = records[-1]["gradients"]
    for loss in losses:
        assert records[-1]["losses"][f"distill.{loss}"] > 0
        if losses[loss]["type"] == "NLKDINLoss":
            maps = [key for key in last if key.startswith(f"distiller.distill_losses.{loss}.") and ".bn." not in key]
            assert len(maps) >= 2 if losses[loss].get("affinity") == "gaussian" else len(maps) >= 4
            assert all(last[key] > 1e-5 * last["architecture"] for key in maps if key.endswith("weight")), last
    assert re.search(r"(Epoch|Iter)\(val\)", log), log[-6000:]

    if "dagger" in name:
        inherited = dict(re.findall(r"Inherited from the teacher: (\d+ of \d+) tensors of ([\w.]+)", log))
        assert "neck" in inherited.values() and len(inherited) == 2, log
        if "cascade" in name:
            assert inherited["6 of 8"] == "roi_head.bbox_head"

    (checkpoint,) = work_dir.glob("*_[13].pth")
    trained = load_checkpoint_file(checkpoint)["state_dict"]
    given = load_checkpoint_file(Config.fromfile(work_dir / "overlay.py").model.teacher_ckpt)["state_dict"]
    kept = {key: value for key, value in trained.items() if key.startswith("teacher.")}
    assert len(kept) in (0, len(given))
    assert all((value == given[key[len("teacher.") :]]).all() for key, value in kept.items())
    assert any(key.startswith("architecture.") for key in trained)
    shutil.rmtree(work_dir)
