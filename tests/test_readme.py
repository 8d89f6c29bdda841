"""What the README promises: its tables are current and its examples are read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cankd.openmmlab.configs import read_config
from cankd.openmmlab.loading import build_model
from tests.conftest import ROOT
from tests.in_process import call_tool

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


def test_the_own_data_example_makes_a_training(three_classes, tmp_path):
    example = re.search(r"<!-- own data -->\n```python\n(.*?)```", README, re.S)
    assert example and len(example.group(1).splitlines()) <= 12
    data, config = tmp_path / "my_data.py", tmp_path / "my_teacher.py"
    data.write_text(example.group(1).replace("data/mine", str(three_classes)))
    call_tool("make_config.py", "rtmdet-t", "--data", data, "--out", config)
    assert len(config.read_text().splitlines()) == 2
    cfg = read_config(config)
    assert build_model(cfg).bbox_head.num_classes == 3
    assert cfg.train_dataloader.dataset.metainfo.classes == ("cat", "dog", "bird")
