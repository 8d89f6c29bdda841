"""What the README promises: its tables are current and its example trains."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from cankd.openmmlab.models import stock_model
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_generated_tables_are_current(run_tool):
    assert "Tables are current." in run_tool("make_tables.py", "--check").stdout


def test_every_named_file_exists():
    names = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(names) > 20
    for name in names:
        assert (ROOT / name).exists(), name


def test_measured_figures_have_their_logs():
    for file in (ROOT / "logfile" / "quickstart").glob("*/summary.json"):
        summary = json.loads(file.read_text())
        for name in ("student", "cankd"):
            points = [json.loads(line) for line in (file.parent / f"{name}.json").read_text().splitlines()]
            last = [point for point in points if "coco/bbox_mAP" in point][-1]
            assert last["step"] == summary["iterations"]
            assert round(100 * last["coco/bbox_mAP"], 1) == summary[name]["AP"]


@pytest.fixture()
def three_classes(mini_data, tmp_path) -> Path:
    """The mini data in three classes, named as in the README's example."""
    out = tmp_path / "mine"
    (out / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (out / split).symlink_to(mini_data / split)
        content = json.loads((mini_data / f"annotations/{split}.json").read_text())
        content["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(("cat", "dog", "bird"))]
        for annotation in content["annotations"]:
            annotation["category_id"] = annotation["category_id"] % 3 + 1
        (out / f"annotations/{split}.json").write_text(json.dumps(content))
    return out


@pytest.mark.slow
def test_the_own_data_example_trains(three_classes, run_tool, tmp_path):
    example = re.search(r"<!-- own data -->\n```python\n(.*?)```", README, re.S)
    assert example and len(example.group(1).splitlines()) <= 12
    text = example.group(1).replace('"configs/', f'"{ROOT}/configs/').replace("data/mine", str(three_classes))
    config = tmp_path / "mine.py"
    config.write_text(text)
    teacher = tmp_path / "teacher.pth"
    no_init = dict(backbone=dict(init_cfg=None), bbox_head=dict(num_classes=3))
    torch.save(
        {"state_dict": stock_model("mmdet::retinanet/retinanet_r101_fpn_2x_coco.py", **no_init).state_dict()}, teacher
    )
    run_tool(
        "train.py",
        config,
        "--work-dir",
        tmp_path / "run",
        "--cfg-options",
        f"teacher_ckpt={teacher}",
        "model.architecture.backbone.init_cfg=None",
        "model.teacher.backbone.init_cfg=None",
        "train_cfg.max_epochs=1",
        "train_dataloader.dataset.pipeline.2.scale=(128,128)",
        "val_dataloader.dataset.pipeline.1.scale=(128,128)",
        "train_dataloader.num_workers=0",
        "train_dataloader.persistent_workers=False",
        "val_dataloader.num_workers=0",
        "val_dataloader.persistent_workers=False",
        "default_hooks.logger.interval=1",
    )
    saved = torch.load(tmp_path / "run" / "epoch_1.pth", map_location="cpu")["state_dict"]
    assert saved["architecture.bbox_head.retina_cls.bias"].shape == (27,)
    scalars = next((tmp_path / "run").glob("*/vis_data/scalars.json")).read_text()
    assert "distill.loss_fpn3" in scalars
