"""Trains a recipe of each kind by the real command, on a few images in the real layout (see tests/train_recipe.py)."""

from __future__ import annotations

import json
import math
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlparse

import pytest
import torch
import torchvision
from mmengine.runner.checkpoint import get_torchvision_models

from cankd.openmmlab.checkpoint_files import load_checkpoint_file
from cankd.openmmlab.compat import CLASSIFICATION
from cankd.openmmlab.configs import read_config
from tests.configs.stock_models import recipes_of
from tests.conftest import ROOT, free_port, run_command, run_python
from tests.train_recipe import random_weights

pytestmark = pytest.mark.slow

# The paper's; test_zoo_recipes.py trains those of other pairs.
RECIPES = {
    path.stem: path
    for path in sorted((ROOT / "configs" / "distill").glob("*/cankd/*.py"))
    if path.stem not in recipes_of("zoo")
}
# Of each kind one trains on both stacks.
ONE_OF_EACH_KIND = [
    "cankd-inherit_fpn_faster-rcnn_r101_faster-rcnn_r50_2x_coco",
    "cankd_neck_dino_r101_dino_r50_12e_coco",
    "cankd_neck_grounding-dino_r101_grounding-dino_r50_1x_coco",
    "cankd_backbone_pspnet_r101_pspnet_r18_80k_cityscapes",
    "cankd_backbone_resnet50_mobilenet-v1_8xb32_in1k",
]
# The others build in test_configs.py.
ON_THE_MODERN_STACK = [
    "cankd-gaussian_fpn_reppoints_x101_reppoints_r50_2x_coco",
    "cankd-inherit_fpn_cascade-mask-rcnn_x101_faster-rcnn_r50_2x_coco",
    "cankd-inherit_fpn_retinanet_r101_retinanet_r50_1x_objects365v2",
    "cankd-pool4_fpn_reppoints_x101_reppoints_r50_2x_coco",
    "cankd_fpn_fcos_r101_fcos_r50_2x_coco",
    "cankd_fpn_gfl_r101_retinanet_r50_1x_coco",
    "cankd_fpn_mask-rcnn_swin-s_retinanet_r50_2x_coco",
    "cankd_neck_deformable-detr_r101_deformable-detr_r50_50e_coco",
    "cankd_backbone_deeplabv3_r101_deeplabv3_mv2_80k_cityscapes",
]
TRAINED = [*ONE_OF_EACH_KIND, *(ON_THE_MODERN_STACK if CLASSIFICATION == "mmpretrain" else [])]
# The least gradient of a block's weight beside the student's; a block without effect has 1e-14 or 0.
ALIVE = 1e-6
# At random weights the task losses of these have far larger gradients than the others'; 7e-8 and 1e-6 were seen.
FAINT = {"grounding-dino": 1e-8, "mobilenet-v1": 1e-8}
IMAGES = {"coco": 6, "objects365": 6, "cityscapes": 6, "imagenet": 96}  # three iterations, or as many as needed


def _size(name: str) -> int:
    """Returns the side of an image in pixels: P6 must hold the pool.

    A softmax needs more than one position on the pooled P6: over a single one it is constant.
    """
    return 256 if "pool4" in name or "gaussian" in name else 128


def test_every_recipe_is_trained_here_or_was_once():
    """Those that differ from another one in weight (mu) or start (inherit) alone are compared in test_configs.py."""
    logs = (file.read_text(encoding="utf-8") for file in (ROOT / "logfile/recipes").glob("*.txt"))
    trained = {*ONE_OF_EACH_KIND, *ON_THE_MODERN_STACK, *"\n".join(logs).splitlines()}
    for name in RECIPES:
        assert trained & {name, re.sub(r"-mu\d+", "", name), name.replace("cankd-inherit_", "cankd_")}, name


@pytest.fixture(scope="session")
def layouts(tmp_path_factory, run_tool) -> Path:
    """Makes a folder with mini data in each of the four layouts."""
    out = tmp_path_factory.mktemp("layouts")
    for layout, count in IMAGES.items():
        run_tool("dataset_tools/make_mini.py", "--layout", layout, "--out", out / layout, "--train", count, "--val", 2)
    return out


@pytest.fixture(scope="session")
def teachers(tmp_path_factory) -> Path:
    """Makes a folder for the teachers' random weights, which the recipes share."""
    return tmp_path_factory.mktemp("teachers")


def _train_recipe(name: str, layouts: Path, work_dir: Path, teachers: Path, *extra: str) -> str:
    """Trains a recipe on mini data, or with "prepare" writes the configuration for it alone; returns the log."""
    command = ["-m", "tests.train_recipe", RECIPES[name], layouts, _size(name)]
    done = run_python(*command, work_dir, teachers, *extra, OMP_NUM_THREADS="1", timeout=1800)
    return done.stdout


def _ranks(work_dir: Path) -> list[list[dict]]:
    files = sorted(work_dir.glob("rank*.jsonl"))
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]


@pytest.mark.parametrize("name", TRAINED)
def test_recipe_trains(name, layouts, teachers, tmp_path):
    work_dir = tmp_path / name
    log = _train_recipe(name, layouts, work_dir, teachers)
    (records,) = _ranks(work_dir)
    cfg = read_config(RECIPES[name])
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
            ratios = {key: last[key] / last["architecture"] for key in maps if key.endswith("weight")}
            alive = min([limit for part, limit in FAINT.items() if part in name], default=ALIVE)
            assert min(ratios.values()) > alive, ratios
    assert re.search(r"(Epoch|Iter)\(val\)", log), log[-6000:]
    if "cityscapes" in name:
        assert re.search(r"Iter\(val\).* teacher\.mIoU: ", log), log[-6000:]

    if "inherit" in name:
        inherited = dict(re.findall(r"Inherited from the teacher: (\d+ of \d+) tensors of ([\w.]+)\.", log))
        assert "neck" in inherited.values() and len(inherited) == 2, log
        if "cascade" in name:
            assert inherited["6 of 8"] == "roi_head.bbox_head"

    (checkpoint,) = work_dir.glob("*_[13].pth")
    trained = load_checkpoint_file(checkpoint)["state_dict"]
    assert any(key.startswith("architecture.") for key in trained)
    assert not any(key.startswith("teacher.") for key in trained)
    shutil.rmtree(work_dir)


@pytest.mark.parametrize(
    "name",
    ["cankd_fpn_retinanet_r101_retinanet_r50_2x_coco", "cankd_backbone_pspnet_r101_pspnet_r18_80k_cityscapes"],
)
def test_recipe_trains_in_two_processes(name, layouts, teachers, tmp_path):
    _train_recipe(name, layouts, tmp_path, teachers, "prepare")
    config = tmp_path / "overlay.py"
    command = ["bash", "tools/dist_train.sh", str(config), "2", "--work-dir", str(config.parent)]
    run_command(*command, PORT=free_port(), OMP_NUM_THREADS="1")
    first, second = _ranks(config.parent)
    loss = "distill.loss_fpn0" if "fpn" in name else "distill.loss_backbone"
    assert first[0]["losses"][loss] != second[0]["losses"][loss]
    # Gradients are averaged over the processes, so each steps alike.
    assert first[-1]["gradients"] == pytest.approx(second[-1]["gradients"], rel=1e-4)
    assert list(config.parent.glob("*_[123].pth"))


def test_recipe_trains_on_two_nodes(layouts, teachers, tmp_path):
    _train_recipe("cankd_fpn_retinanet_r101_retinanet_r50_2x_coco", layouts, tmp_path, teachers, "prepare")
    config = tmp_path / "overlay.py"
    port = free_port()

    def node(rank: int) -> None:
        nodes = ["env", "NNODES=2", f"NODE_RANK={rank}", "MASTER_ADDR=127.0.0.1", f"PORT={port}"]
        command = [*nodes, "bash", "tools/dist_train.sh", str(config), "1", "--work-dir", str(config.parent)]
        run_command(*command, OMP_NUM_THREADS="1")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(node, (0, 1)))
    first, second = _ranks(config.parent)
    assert first[0]["losses"]["distill.loss_fpn0"] != second[0]["losses"]["distill.loss_fpn0"]
    assert first[-1]["gradients"] == pytest.approx(second[-1]["gradients"], rel=1e-4)


# As the authors' files are written: mmrazor's scope, models by cfg_path, every level spelt out, no import of ours.
PUBLISHED = """
_base_ = ['mmdet::_base_/datasets/coco_detection.py', 'mmdet::_base_/schedules/schedule_2x.py',
          'mmdet::_base_/default_runtime.py']
teacher_ckpt = '{teacher}'
model = dict(
    _scope_='mmrazor',
    type='FpnTeacherDistill',
    architecture=dict(cfg_path='mmdet::retinanet/retinanet_r50_fpn_2x_coco.py', pretrained=False),
    teacher=dict(cfg_path='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py', pretrained=False),
    teacher_ckpt=teacher_ckpt,
    distiller=dict(
        type='ConfigurableDistiller',
        student_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
        teacher_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
        distill_losses=dict(
            loss_nlkd_fpn0=dict(type='NLKD_IN_Loss', in_channels=256, sub_sample=True, bn_layer=True, loss_weight=10),
            loss_nlkd_fpn1=dict(type='NLKD_IN_Loss', in_channels=256, sub_sample=True, bn_layer=True, loss_weight=10)),
        loss_forward_mappings=dict(
            loss_nlkd_fpn0=dict(
                s_feature=dict(from_student=True, recorder='fpn', data_idx=0),
                t_feature=dict(from_student=False, recorder='fpn', data_idx=0)),
            loss_nlkd_fpn1=dict(
                s_feature=dict(from_student=True, recorder='fpn', data_idx=1),
                t_feature=dict(from_student=False, recorder='fpn', data_idx=1)))))
find_unused_parameters = True
optim_wrapper = dict(optimizer=dict(lr=0.005), clip_grad=dict(max_norm=35, norm_type=2))
val_cfg = dict(_delete_=True, type='mmrazor.SingleTeacherDistillValLoop')
"""


def test_a_published_configuration_trains_as_it_is(layouts, run_tool, tmp_path):
    """Puts the pretrained backbone, with random weights, where torch keeps fetched files."""
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    resnet50 = Path(urlparse(get_torchvision_models()["resnet50"]).path).name
    torch.save(torchvision.models.resnet50().state_dict(), tmp_path / "hub" / "checkpoints" / resnet50)
    teacher = {"cfg": "mmdet::retinanet/retinanet_r101_fpn_2x_coco.py", "backbone": {"init_cfg": None}}
    config = tmp_path / "published.py"
    config.write_text(PUBLISHED.format(teacher=random_weights({**teacher, "type": "StockModel"}, tmp_path)))
    data = layouts / "coco"
    options = {
        "train_cfg.max_epochs": 1,
        "train_dataloader.dataset.data_root": data,
        "val_dataloader.dataset.data_root": data,
        "val_evaluator.ann_file": data / "annotations" / "instances_val2017.json",
        "train_dataloader.dataset.pipeline.2.scale": "(128,128)",
        "val_dataloader.dataset.pipeline.1.scale": "(128,128)",
        "default_hooks.logger.interval": 1,
    }
    for split in ("train", "val"):
        options.update({f"{split}_dataloader.num_workers": 0, f"{split}_dataloader.persistent_workers": False})
    done = run_tool("train.py", config, "--work-dir", tmp_path / "run", "--cfg-options",
                    *(f"{key}={value}" for key, value in options.items()), TORCH_HOME=str(tmp_path))  # fmt: skip
    losses = re.findall(r"distill\.loss_nlkd_fpn1: (\S+)", done.stdout)
    assert len(losses) == 3 and all(math.isfinite(float(value)) for value in losses)
    assert "Epoch(val)" in done.stdout and (tmp_path / "run" / "epoch_1.pth").exists()
