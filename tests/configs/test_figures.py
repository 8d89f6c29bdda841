"""metafile.yml against what CanKD prints; the table of facts stands here, apart from the file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config

from cankd.openmmlab.analysis.complexity import model_cost
from cankd.openmmlab.configs import read_config
from cankd.openmmlab.loading import build_model
from tests.conftest import ROOT
from tests.in_process import call_tool

METAFILE = yaml.safe_load((ROOT / "configs" / "metafile.yml").read_text(encoding="utf-8"))
ENTRIES = {Path(entry["config"]).stem: entry for entry in METAFILE["models"]}
DETECTION, SEGMENTATION = ("AP", "AP50", "AP75", "APS", "APM", "APL"), ("mIoU", "aAcc", "mAcc")
COST, ROBUSTNESS = ("FLOPs", "parameters"), ("mPC", "rPC")

# CanKD's tables 1 to 5 and supplements 1 and 6: teachers and students alone.
BASELINES = {
    "RetinaNet R101": dict(zip(DETECTION, (38.9, 58.0, 41.5, 21.0, 42.8, 52.4))),
    "RetinaNet X101": dict(zip(DETECTION, (41.0, 60.9, 44.0, 23.9, 45.2, 54.0))),
    "RetinaNet R50": dict(zip(DETECTION + ROBUSTNESS, (37.4, 56.7, 39.6, 20.0, 40.7, 49.7, 18.3, 48.9))),
    "Faster R-CNN R101": dict(zip(DETECTION, (39.8, 60.1, 43.3, 22.5, 43.6, 52.8))),
    "Faster R-CNN R50": dict(zip(DETECTION, (38.4, 59.0, 42.0, 21.5, 42.1, 50.3))),
    "Cascade Mask R-CNN X101": dict(zip(DETECTION, (45.6, 64.1, 49.7, 26.2, 49.6, 60.0))),
    "FCOS R101": dict(zip(DETECTION, (40.8, 60.0, 44.0, 24.2, 44.3, 52.4))),
    "FCOS X101": {"AP": 42.7},
    "FCOS R50": dict(zip(DETECTION, (38.5, 57.7, 41.0, 21.9, 42.8, 48.6))),
    "RepPoints X101": dict(zip(DETECTION, (44.2, 65.5, 47.8, 26.2, 48.4, 58.5))),
    "RepPoints R50": dict(zip(DETECTION, (38.6, 59.6, 41.6, 22.5, 42.2, 50.4))),
    "Mask R-CNN Swin-S": {"AP": 48.2},
    "DINO R101": dict(zip(DETECTION, (50.4, 68.0, 54.8, 32.9, 53.9, 65.2))),
    "DINO R50": {"AP": 49.0},
    "DINO Swin-L": {"AP": 58.4},
    "DINO Swin-B": {"AP": 56.3},
    "GroundingDINO R101": {"AP": 50.0},
    "GroundingDINO R50": {"AP": 48.9},
    "Objects365v2 RetinaNet R101": {"AP": 19.5},
    "Objects365v2 RetinaNet R50": {"AP": 16.7},
    "PSPNet R101": dict(zip(SEGMENTATION + COST, (79.74, 96.33, 86.56, 2047.11, 65.49))),
    "PSPNet R18": dict(zip(SEGMENTATION + COST, (74.87, 95.56, 82.07, 433.86, 12.63))),
    "DeepLabV3 R101": dict(zip(SEGMENTATION + COST, (80.31, 96.44, 87.16, 2777.00, 84.63))),
    "DeepLabV3 R18": dict(zip(SEGMENTATION + COST, (76.70, 95.89, 84.29, 479.44, 13.83))),
    "DeepLabV3 MobileNetV2": dict(zip(("mIoU", *COST), (73.84, 598.56, 18.34))),
}
RETINANET, FASTER = "retinanet_r101_retinanet_r50_2x_coco", "faster-rcnn_r101_faster-rcnn_r50_2x_coco"
FCOS, FCOS_X101 = "fcos_r101_fcos_r50_2x_coco", "fcos_x101_retinanet_r50_1x_coco"
RETINANET_X101, CASCADE = "retinanet_x101_retinanet_r50_2x_coco", "cascade-mask-rcnn_x101_faster-rcnn_r50_2x_coco"
REPPOINTS, DINO = "reppoints_x101_reppoints_r50_2x_coco", "dino_r101_dino_r50_12e_coco"
PSPNET, PSPNET_DEEPLAB, DEEPLAB, DEEPLAB_MV2 = (
    f"{pair}_80k_cityscapes"
    for pair in (
        "pspnet_r101_pspnet_r18",
        "pspnet_r101_deeplabv3_r18",
        "deeplabv3_r101_deeplabv3_r18",
        "deeplabv3_r101_deeplabv3_mv2",
    )
)
# Table -> recipe -> what is printed, in the columns' order; S is a supplement, None is not printed.
ROWS: dict[str, dict[str, tuple]] = {
    "1": {
        f"cankd_fpn_{RETINANET}": (39.7, 58.6, 42.5, 21.8, 43.8, 53.6),
        f"cankd-inherit_fpn_{RETINANET}": (39.8, 58.8, 42.6, 21.6, 44.0, 53.7),
        f"fgd_fpn_{RETINANET}": (39.6, None, None, 22.9, 43.7, 53.6),
        f"cankd_fpn_{FASTER}": (40.1, 60.4, 43.7, 22.1, 44.3, 52.8),
        f"cankd-inherit_fpn_{FASTER}": (40.7, 60.8, 44.4, 23.3, 44.9, 53.6),
        f"fgd_fpn_{FASTER}": (40.4, None, None, 22.8, 44.5, 53.5),
        f"pkd_fpn_{FASTER}": (40.5, 60.9, 44.4, 22.6, 44.8, 53.1),
        f"cankd_fpn_{FCOS}": (42.4, 60.8, 45.9, 26.1, 46.5, 55.0),
        f"cankd-inherit_fpn_{FCOS}": (42.4, 60.8, 45.8, 26.8, 46.1, 55.2),
        f"fgd_fpn_{FCOS}": (42.1, None, None, 27.0, 46.0, 54.6),
    },
    "2": {
        f"cankd_fpn_{RETINANET_X101}": (41.0, 60.6, 43.8, 24.3, 45.9, 54.4),
        f"cankd-inherit_fpn_{RETINANET_X101}": (41.1, 60.6, 43.8, 23.6, 45.4, 55.3),
        f"fbkd_fpn_{RETINANET_X101}": (39.6, 58.8, 42.1, 22.7, 43.3, 52.5),
        f"cankd_fpn_{CASCADE}": (42.0, 62.4, 45.6, 23.8, 46.4, 55.1),
        f"cankd-inherit_fpn_{CASCADE}": (42.5, 62.9, 46.5, 23.9, 47.0, 56.7),
        f"cankd_fpn_{REPPOINTS}": (42.4, 62.9, 45.6, 24.1, 46.5, 56.4),
        f"cankd-inherit_fpn_{REPPOINTS}": (42.6, 63.1, 45.6, 24.1, 47.0, 56.4),
        f"fgd_fpn_{REPPOINTS}": (41.3,),
    },
    "3": {f"cankd_fpn_{FCOS_X101}": (40.5, 59.9, 43.4, 23.2, 45.1, 54.2), f"pkd_fpn_{FCOS_X101}": (40.3,)},
    "4": {
        f"cankd_backbone_{PSPNET}": (76.24, 95.67, 85.49),
        f"cwd_logits_{PSPNET}": (75.54, 95.75, 82.11),
        f"mgd_backbone_{PSPNET}": (75.84, 95.68, 83.07),
        f"cankd_backbone_{PSPNET_DEEPLAB}": (77.34, 96.04, 85.49),
        f"cwd_logits_{PSPNET_DEEPLAB}": (77.19, 95.93, 85.35),
        f"mgd_backbone_{PSPNET_DEEPLAB}": (77.28, 95.90, 85.11),
        f"cankd_backbone_{DEEPLAB}": (77.12, 96.01, 85.47),
        f"cankd_backbone_{DEEPLAB_MV2}": (75.62, 95.94, 84.81),
    },
    "5": {
        f"cankd_neck_{DINO}": (49.7, 67.1, 54.2, 32.5, 52.8, 64.4),
        f"cwd_neck_{DINO}": (49.5,),
        f"pkd_neck_{DINO}": (49.2,),
        "cankd_neck_dino_swin-l_dino_swin-b_12e_coco": (56.5, 74.8, 61.9, 40.4, 60.0, 72.6),
        "cankd_neck_grounding-dino_r101_grounding-dino_r50_1x_coco": (49.8, 66.9, 54.1, 31.5, 53.1, 65.3),
        "cankd-inherit_fpn_retinanet_r101_retinanet_r50_1x_objects365v2": (18.4, 26.6, 19.7, 7.7, 18.3, 24.9),
    },
    "6": {f"l2_fpn_{REPPOINTS}": (41.4,), f"in-l2_fpn_{REPPOINTS}": (41.7,)},
    "7": {f"cankd-gaussian_fpn_{REPPOINTS}": (41.8,), f"cankd-embedded-gaussian_fpn_{REPPOINTS}": (41.9,)},
    "8": {
        f"cankd-mu2_fpn_{REPPOINTS}": (42.3,),
        f"cankd-mu8_fpn_{REPPOINTS}": (41.8,),
        f"cankd-mu10_fpn_{REPPOINTS}": (41.6,),
    },
    "9": {
        f"cankd-mu2_backbone_{PSPNET_DEEPLAB}": (76.96,),
        f"cankd-mu5_backbone_{PSPNET_DEEPLAB}": (77.28,),
        f"cankd-mu8_backbone_{PSPNET_DEEPLAB}": (77.00,),
    },
    "S2": {f"cankd-pool4_fpn_{REPPOINTS}": (42.0,), f"cankd-pool8_fpn_{REPPOINTS}": (42.1,)},
    "S3": {f"cankd-no-residual_fpn_{REPPOINTS}": (41.4,)},
    "S6": {
        "cankd_fpn_mask-rcnn_swin-s_retinanet_r50_2x_coco": (40.5,),
        "pkd_fpn_mask-rcnn_swin-s_retinanet_r50_2x_coco": (41.5,),
    },
}
# Supplement 1, of the same runs.
COCO_C = {f"cankd-inherit_fpn_{RETINANET}": (20.5, 51.6), f"fgd_fpn_{RETINANET}": (20.3, 51.3)}
PRINTED = {recipe: (table, figures) for table, rows in ROWS.items() for recipe, figures in rows.items()}


def test_teachers_and_students_alone_are_the_paper_s():
    assert {baseline["name"]: baseline["figures"] for baseline in METAFILE["baselines"]} == BASELINES
    for config in (baseline["config"] for baseline in METAFILE["baselines"]):
        assert config is None or "::" in config or (ROOT / "configs" / config).exists(), config


@pytest.mark.parametrize("recipe", sorted(PRINTED))
def test_a_row_has_every_column_that_the_paper_prints(recipe):
    table, (paper, *others) = PRINTED[recipe]
    entry = ENTRIES[recipe]
    columns = DETECTION if entry["metric"] == "AP" else SEGMENTATION
    expected = {name: value for name, value in zip(columns[1:], others) if value is not None}
    expected.update(zip(ROBUSTNESS, COCO_C.get(recipe, ())))
    assert entry["paper"] == paper and entry["metric"] == columns[0]
    assert entry.get("columns", {}) == expected
    named = f"CanKD, {'supplement' if table[0] == 'S' else 'table'} {table.lstrip('S')}"
    assert entry["source"] == named if "method" in entry else entry["table"] == table

    row = entry["row"].split(",")[0].rstrip(" †")
    teacher, student = row.split(" -> ")
    student = student if " " in student else f"{teacher.rsplit(' ', 1)[0]} {student}"
    assert (entry["teacher"], entry["student"]) == tuple(BASELINES[name][columns[0]] for name in (teacher, student))


def test_no_other_recipe_has_a_figure_of_cankd_s():
    for recipe, entry in ENTRIES.items():
        if entry["paper"] is not None and "method" not in entry or re.match("CanKD", entry.get("source") or ""):
            assert recipe in PRINTED, recipe


def test_a_published_figure_names_its_source():
    # CrossKD's and ACAM-KD's figures are their own, those of pairs beyond the paper are marked; all others that stand
    # beside a recipe are those that CanKD prints.
    for recipe, entry in ENTRIES.items():
        if "method" in entry:
            assert (entry["paper"] is None) == (entry["source"] is None), recipe
            if entry.get("recipe") == "zoo":
                assert entry["source"] is None or entry["source"].startswith("*published elsewhere*: ")
            elif not entry["method"].startswith(("CrossKD", "ACAM-KD")):
                assert entry["source"] is None or entry["source"].startswith("CanKD, "), recipe


TABLE_4 = {
    "PSPNet R18": (PSPNET, "student"),
    "PSPNet R101": (PSPNET, "teacher"),
    "DeepLabV3 R18": (DEEPLAB, "student"),
    "DeepLabV3 R101": (DEEPLAB, "teacher"),
    "DeepLabV3 MobileNetV2": (DEEPLAB_MV2, "student"),
}


def _recipe(pair: str) -> Config:
    return read_config(ROOT / "configs/distill/mmseg/cankd" / f"cankd_backbone_{pair}.py")


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE_4)
def test_table_4_s_costs_of_whole_models_are_made_again(name):
    """To the printed digit at 1024 x 2048: what is convolved grows with the pixels, what is pooled before does not."""
    pair, role = TABLE_4[name]
    sizes = (64, 128), (128, 256)
    small, large = (model_cost(_recipe(pair), size, role) for size in sizes)
    fewer, more = (height * width for height, width in sizes)
    slope = (large.printed[0] - small.printed[0]) / (more - fewer)
    operations = small.printed[0] + slope * (1024 * 2048 - fewer)
    found = {"FLOPs": round(operations / 1e9, 2), "parameters": round(small.printed[1] / 1e6, 2)}
    assert found == {key: BASELINES[name][key] for key in COST}
    assert small.parameters > small.deployed > small.deployed - small.norms > 0


def test_model_costs_are_mmengine_s(tmp_path):
    cfg = _recipe(PSPNET)
    expected = get_model_complexity_info(build_model(cfg), (3, 64, 128), show_table=False, show_arch=False)
    cost = model_cost(cfg, (64, 128))
    assert (cost.total, cost.parameters) == (expected["flops"], expected["params"])
    config = ROOT / "configs/demo/quickstart_cankd.py"
    done = call_tool("analysis_tools/complexity.py", config, "--input-shape", 96, 96, "--out", tmp_path / "cost.json")
    models = json.loads((tmp_path / "cost.json").read_text())["models"]
    for role in ("student", "teacher"):
        parameters = sum(parameter.numel() for parameter in build_model(read_config(config), role).parameters())
        assert models[role]["parameters"] == parameters and f"{parameters / 1e6:.2f}" in done.stdout
    assert sum(models["teacher"]["operations"].values()) > sum(models["student"]["operations"].values()) > 0


def test_complexity_refuses_an_image_without_a_configuration():
    done = call_tool("analysis_tools/complexity.py", "--input-shape", 64, 64, check=False)
    assert done.returncode == 1 and "expected H W of at least 32 behind a CONFIG" in done.stdout
