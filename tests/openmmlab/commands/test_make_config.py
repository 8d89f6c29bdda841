"""tools/make_config.py: any student under any teacher, down to a training with the student's own hooks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmrazor.registry import MODELS

from cankd.openmmlab.analysis.complexity import loss_costs, model_cost
from cankd.openmmlab.compat import CLASSIFICATION
from cankd.openmmlab.configs import in_scope, read_config
from cankd.openmmlab.engine import Runner
from cankd.openmmlab.engine.config_checks import check_distiller
from cankd.openmmlab.loading import load_model
from cankd.openmmlab.pairing import measured_alike
from cankd.openmmlab.zoo import find_config
from tests.configs.stock_models import without_scopes
from tests.conftest import ROOT
from tests.in_process import call_tool
from tests.train_recipe import overlay, random_weights

PSPNET = "pspnet_{}-d8_4xb2-80k_cityscapes-512x1024"
RETINANET = "retinanet_{}_fpn_1x_coco"
FCOS_HRNET = "fcos_hrnetv2p-w18-gn-head_4xb4-1x"
STOCK = "retinanet/retinanet_r18_fpn_1x_coco.py"


def _make(tmp_path: Path, *arguments: Any) -> tuple[Config, str]:
    """Makes a configuration, which must be short, be read and be built; returns it with what was printed."""
    out = tmp_path / "my_config.py"
    printed = call_tool("make_config.py", *arguments, "--out", out).stdout
    assert len(out.read_text().splitlines()) <= 25
    cfg = read_config(out)
    check_distiller(cfg.model)
    with in_scope(cfg):
        MODELS.build({**cfg.model, "teacher_ckpt": None})
    return cfg, printed


def _records(cfg: Config) -> dict[str, list[Any]]:
    """Index of the student's map, of the teacher's and the connector of each loss."""
    found = {}
    for name, mapping in cfg.model.distiller.loss_forward_mappings.items():
        student, teacher = list(mapping.values())[:2]
        found[name] = [student.get("data_idx"), teacher.get("data_idx"), student.get("connector")]
    return found


def test_a_pair_of_one_family(tmp_path):
    cfg, printed = _make(tmp_path, RETINANET.format("r18"), RETINANET.format("r50"))
    assert cfg.model.architecture.cfg == "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py"
    assert cfg.model.teacher_ckpt.endswith("retinanet_r50_fpn_1x_coco_20200130-c2398f9e.pth")
    assert _records(cfg) == {f"loss_neck{level}": [level, level, None] for level in range(4)}
    assert {loss.loss_weight for loss in cfg.model.distiller.distill_losses.values()} == {10}
    # The recipe is the student's own.
    stock = read_config("mmdet::retinanet/retinanet_r18_fpn_1x_coco.py")
    for key in ("optim_wrapper", "train_cfg", "param_scheduler"):
        assert without_scopes(cfg[key]) == without_scopes(stock[key])
    assert cfg.default_hooks.checkpoint.type == "DistillCheckpointHook"
    assert re.search(r"student +mmdet::retinanet/retinanet_r18_fpn_1x_coco.py +box AP 31.7 on COCO +21.4", printed)
    assert re.search(r"neck\[3\] +neck\[3\] +64 +256 +256 +- +4 x 4", printed)
    # A student's cost is what the tool for models counts, a loss's what the table of losses counts.
    cost = model_cost(stock, (256, 256)).printed[0]
    assert re.search(rf"COCO +21.4 +{cost / 1e9:.2f}\n", printed)
    own = loss_costs((1, 256, 32, 32))["CanKD, linear order"].counted
    assert re.search(rf"neck\[0\] +neck\[0\] +8 +256 +256 +- +32 x 32 +{own / 1e9:.3f}\n", printed)
    assert cfg.val_cfg.type == "DistillValLoop"
    out = tmp_path / "my_config.py"
    commands = f"python tools/train.py {out}\n  python tools/model_converters/convert_kd_ckpt_to_student.py work_dirs/"
    assert f"{commands}my_config/epoch_12.pth" in printed


def test_levels_of_equal_stride_are_compared_across_families(tmp_path):
    cfg, _ = _make(tmp_path, RETINANET.format("r18"), "faster-rcnn_r50_fpn_1x_coco")
    assert _records(cfg) == {f"loss_neck{level}": [level, level + 1, None] for level in range(4)}
    assert "teacher_preprocess" not in cfg.model


def test_a_teacher_with_another_preprocessor_gets_its_own_images(tmp_path):
    cfg, _ = _make(tmp_path, RETINANET.format("r18"), "rtmdet-s")
    assert cfg.model.teacher_preprocess


def test_other_channels_get_a_convolution(tmp_path):
    cfg, printed = _make(tmp_path, "yolox_tiny", "yolox_s_8x8_300e_coco")
    assert _records(cfg) == {f"loss_neck{level}": [level, level, f"neck{level}"] for level in range(3)}
    assert {(part.in_channel, part.out_channel) for part in cfg.model.distiller.connectors.values()} == {(96, 128)}
    assert "1x1, 96 to 128" in printed


def test_channels_that_differ_from_level_to_level(tmp_path):
    cfg, _ = _make(tmp_path, "yolov3_mobilenetv2_8xb24-ms-416-300e_coco", "yolov3_d53_mstrain-608_273e_coco")
    assert [part.out_channel for part in cfg.model.distiller.connectors.values()] == [512, 256, 128]
    assert [loss.in_channels for loss in cfg.model.distiller.distill_losses.values()] == [512, 256, 128]


@pytest.mark.slow
def test_segmenters_compare_their_backbones_last_maps(tmp_path):
    cfg, _ = _make(tmp_path, PSPNET.format("r18"), PSPNET.format("r101"))
    assert _records(cfg) == {"loss_backbone3": [3, 3, "backbone3"]}
    assert cfg.model.distiller.distill_losses.loss_backbone3.in_channels == 2048
    assert cfg.data_preprocessor is None and cfg.train_cfg.max_iters == 80000


@pytest.mark.slow
def test_of_maps_of_one_stride_the_one_that_the_head_reads_is_compared(tmp_path):
    """BiSeNetV2's later maps are those of auxiliary heads."""
    cfg, _ = _make(tmp_path, "bisenetv2_fcn_4xb4-160k", PSPNET.format("r101"), "--teacher-ckpt", "absent.pth")
    assert _records(cfg) == {"loss_backbone0": [0, 3, "backbone0"]}
    assert cfg.model.distiller.connectors.backbone0.in_channel == 128


@pytest.mark.slow
def test_channel_wise_distillation_of_segmenters_without_common_logits_compares_maps(tmp_path):
    cfg, printed = _make(
        tmp_path,
        "segformer_mit-b1_8xb1-160k_cityscapes",
        "mask2former_swin-s_8xb2-90k",
        "--method",
        "cwd",
        "--teacher-ckpt",
        "absent.pth",
    )
    assert _records(cfg) == {"loss_backbone3": [3, 3, "backbone3"]}
    assert "absent.pth, the teacher's weights, is not there yet." in printed


@pytest.mark.parametrize("method", ["l2", "pkd", "cwd", "mgd", "fbkd", "fgd", "acamkd"])
def test_every_method_takes_the_pair(method, tmp_path):
    cfg, printed = _make(tmp_path, "rtmdet-t", "rtmdet-s", "--method", method)
    costs = [float(line.split()[-1]) for line in printed.splitlines() if line.startswith("neck[")]
    assert costs == sorted(costs, reverse=True) and costs[0] > costs[-1] > 0  # of the connectors at least
    published = Config.fromfile(ROOT / f"configs/_base_/methods/{method}_fpn.py").model.distiller.loss
    for loss in cfg.model.distiller.distill_losses.values():
        assert dict(loss) == {**published, **({"in_channels": 128} if method in ("fgd", "acamkd") else {})}


@pytest.mark.slow
def test_fbkd_takes_five_levels_of_other_channels(tmp_path):
    narrow = tmp_path / "narrow.py"
    narrow.write_text(
        f"_base_ = 'mmdet::{STOCK}'\n"
        "model = dict(neck=dict(out_channels=64), bbox_head=dict(in_channels=64, feat_channels=64))\n"
    )
    levels = ("--method", "fbkd", "--levels", 0, 1, 2, 3, 4)
    cfg, _ = _make(tmp_path, narrow, RETINANET.format("r18"), *levels)
    connectors = cfg.model.distiller.connectors
    assert len(connectors) == 10 and connectors.Student0[1].maxpool_stride == connectors.Teacher0.maxpool_stride == 4
    assert all(connectors[f"Student{level}"][0].in_channel == 64 for level in range(5))
    stages = ("--method", "fbkd", "--source", "backbone", "--levels", 0, 1, 2, 3)
    cfg, printed = _make(tmp_path, narrow, RETINANET.format("r50"), *stages)
    for level, student in enumerate((64, 128, 256, 512)):
        convolution, relations = cfg.model.distiller.connectors[f"Student{level}"]
        assert (convolution.in_channel, convolution.out_channel) == (student, 4 * student)
        assert relations.in_channels == cfg.model.distiller.connectors[f"Teacher{level}"].in_channels == 4 * student
    assert "backbone[3]" in printed


def test_crosskd_continues_in_a_head_that_fits(tmp_path):
    cfg, printed = _make(tmp_path, "fcos_r50-caffe_fpn_gn-head_1x", FCOS_HRNET, "--method", "crosskd")
    assert cfg.model.type == "CrossKD" and cfg.model.distiller == {"type": "ConfigurableDistiller"}
    assert re.search(r"FCOSHead +2 of 4 +80 +8, 16, 32, 64, 128 +cls 0.4, reg 0.75\n", printed)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("faster-rcnn_r50_fpn_1x_coco", "got a teacher whose bbox_head is NoneType, expected one of GFLHead"),
        ("atss_r50_fpn_1x_coco", "got a RetinaHead under a ATSSHead, expected heads of one class"),
        ("retinanet_r50_fpn_32xb2-1x_openimages", "got classes 80 (student) and 601 (teacher), expected equal ones"),
    ],
)
def test_crosskd_refuses_other_heads_in_one_line(teacher, message, tmp_path):
    arguments = (RETINANET.format("r18"), teacher, "--method", "crosskd", "--out", tmp_path / "no.py")
    done = call_tool("make_config.py", *arguments, check=False)
    assert done.returncode and message in done.stdout and len(done.stdout.strip().splitlines()) == 1
    done = call_tool("make_config.py", *arguments, "--source", "neck", check=False)
    assert done.returncode == 2 and "crosskd, which compares predictions" in done.stdout


@pytest.mark.slow
def test_activations_are_computed_anew_without_a_search_for_unused_parameters(tmp_path):
    student = tmp_path / "student.py"
    for recomputes in (False, True):
        text = f"_base_ = 'mmdet::{STOCK}'\nmodel = dict(backbone=dict(with_cp={recomputes}))\n"
        text += "custom_imports = dict(imports='cankd.losses')\n"  # one module without a list
        student.write_text(text)
        cfg, _ = _make(tmp_path, student, RETINANET.format("r18"))
        assert cfg.get("find_unused_parameters", False) is not recomputes
        assert cfg.custom_imports.imports == ["cankd.losses", "cankd.openmmlab"]


def test_a_teacher_is_evaluated_where_it_can_be():
    """Not where it has other classes, or does not predict what the student is measured by."""
    retinanet, mask_rcnn, openimages = (
        read_config(find_config(name))
        for name in (RETINANET.format("r18"), "mask-rcnn_r50_fpn_1x_coco", "retinanet_r50_fpn_32xb2-1x_openimages")
    )
    assert measured_alike(retinanet, retinanet) and measured_alike(retinanet, mask_rcnn)
    assert not measured_alike(mask_rcnn, retinanet) and not measured_alike(retinanet, openimages)


@pytest.mark.slow
def test_a_pair_without_a_common_stride(tmp_path):
    pair = ("yolox_tiny", "centripetalnet", "--source", "neck", "backbone")
    cfg, printed = _make(tmp_path, *pair)
    assert _records(cfg) == {"loss_neck0": [0, 1, "neck0"]} and "8 to 4" in printed and "32 x 32 to 64 x 64" in printed
    assert all(loss.align for loss in cfg.model.distiller.distill_losses.values())
    done = call_tool("make_config.py", *pair, "--method", "mgd", "--out", tmp_path / "no.py", check=False)
    assert done.returncode and "compares maps of equal height and width" in done.stdout


DINOV2 = [("mmpretrain::dinov2/vit-small-p14_dinov2-pre_headless.py", None, dict(patch_size=14), 2)]


@pytest.mark.parametrize(
    ("teacher", "source", "tokens", "level"),
    [
        *(DINOV2 if CLASSIFICATION == "mmpretrain" else []),
        ("mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py", "backbone.layers.3.2",
         dict(patch_size=32, extra_tokens=0), 3),
    ],
)  # fmt: skip
def test_tokens_are_laid_out_as_a_map(teacher, source, tokens, level, tmp_path):
    # Without a source it is the last part of a backbone that returns no maps: DINOv2's norm.
    cfg, printed = _make(tmp_path, RETINANET.format("r18"), teacher, *(["--source", "backbone", source] * bool(source)))
    assert source or cfg.model.distiller.teacher_recorders.backbone.source == "backbone.ln1"
    assert _records(cfg) == {f"loss_backbone{level}": [level, None, f"backbone{level}"]}
    assert cfg.model.distiller.connectors[f"Teacher{level}"] == dict(type="TokensToMap", **tokens)
    assert "teacher's tokens; 1x1" in printed


def test_a_backbone_that_returns_further_maps_in_training(tmp_path):
    pidnet = "pidnet-{}_2xb6-120k_1024x1024-cityscapes"
    cfg, _ = _make(tmp_path, pidnet.format("s"), pidnet.format("m"))
    assert _records(cfg) == {"loss_backbone1": [1, 1, "backbone1"]}
    assert cfg.model.distiller.connectors.backbone1.in_channel == 128


@pytest.mark.slow
def test_source_and_levels_can_be_chosen(tmp_path):
    pair = (RETINANET.format("r18"), RETINANET.format("r50"))
    cfg, _ = _make(tmp_path, *pair, "--source", "backbone", "--levels", 1, 2)
    assert _records(cfg) == {"loss_backbone1": [1, 1, "backbone1"], "loss_backbone2": [2, 2, "backbone2"]}
    assert [part.in_channel for part in cfg.model.distiller.connectors.values()] == [128, 256]
    cfg, _ = _make(tmp_path, *pair, "--source", "backbone.layer3")
    assert _records(cfg) == {"loss_backbone": [None, None, "backbone"]}
    for wrong, message in (
        (["--source", "nekc"], "got nekc, which retinanet_r18_fpn_1x_coco does not have; the nearest are neck"),
        (["--levels", 1, 1], "--levels: got 1 1, expected each index once."),
        (["--levels", 7], "--levels: got 7, expected indices of the maps of the student's neck: 0, 1, 2, 3, 4"),
    ):
        done = call_tool("make_config.py", *pair, *wrong, "--out", tmp_path / "no.py", check=False)
        assert done.returncode and message in done.stdout and "Traceback" not in done.stdout
    assert not (tmp_path / "no.py").exists()


def test_a_configuration_of_ones_own(tmp_path):
    demo = ROOT / "configs/demo"
    teacher_ckpt = demo / "quickstart_teacher.pth"
    pair = (demo / "quickstart_student.py", demo / "quickstart_teacher.py")
    done = call_tool("make_config.py", *pair, "--out", tmp_path / "no.py", check=False)
    assert done.returncode and "Give one with --teacher-ckpt FILE" in done.stdout
    cfg, printed = _make(tmp_path, *pair, "--teacher-ckpt", teacher_ckpt)
    assert cfg.model.teacher_ckpt == str(teacher_ckpt) and "accuracy unknown" in printed
    done = call_tool("make_config.py", demo / "quickstart_cankd.py", pair[1], "--out", tmp_path / "no.py", check=False)
    assert done.returncode and "got a distillation, expected the configuration of a single model" in done.stdout


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ("rtmdet_tyni_8xb32-300e_coco", "no installed package describes. The nearest are mmdet::rtmdet/rtmdet_tiny"),
        ("mmdet::glip/glip_atss_swin-t_a_fpn_dyhead_pretrain_obj365.py", "got a model that reads text"),
        ("mmdet::lad/lad_r50-paa-r101_fpn_2xb8_coco_1x.py", "got a distillation, expected"),
        ("mmdet::mask2former_vis/mask2former_r50_8xb2-8e_youtubevis2021.py", "got a model of videos"),
        ("bytetrack_yolox_x_8xb4-amp-80e_crowdhuman-mot17halftrain_test-mot17halfval", "got a tracker"),
    ],
)
def test_what_cannot_be_a_student_is_one_line(student, message, tmp_path):
    done = call_tool("make_config.py", student, "rtmdet-s", "--out", tmp_path / "no.py", check=False)
    assert done.returncode and message in done.stdout and len(done.stdout.strip().splitlines()) == 1


# Training.


def _small(config: Any) -> Any:
    """The same configuration for images of 128 pixels instead of 640."""
    if isinstance(config, dict):
        return {key: _small(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(map(_small, config))
    return {1280: 256, 640: 128, 320: 64, -320: -64}.get(config, config) if type(config) is int else config


@pytest.fixture(scope="module")
def coco(tmp_path_factory, run_tool) -> Path:
    out = tmp_path_factory.mktemp("coco") / "coco"
    run_tool("dataset_tools/make_mini.py", "--layout", "coco", "--out", out, "--train", 4, "--val", 2)
    return out


def _runner(tmp_path: Path, coco: Path, epochs: int, **changes: Any) -> Runner:
    """A runner of the made configuration for two small batches an epoch, without weights from the network."""
    cfg = read_config(tmp_path / "my_config.py").to_dict()
    model = cfg.pop("model")
    cfg = {**_small(cfg), "model": model}
    for part in (model["architecture"], model["teacher"]):
        part["backbone"] = dict(init_cfg=None)
    model["teacher_ckpt"] = str(random_weights(model["teacher"], tmp_path))
    loader = cfg["train_dataloader"]
    loader.update(batch_size=2, num_workers=0, persistent_workers=False)
    dataset = loader["dataset"].get("dataset", loader["dataset"])
    dataset.update(data_root=f"{coco}/", indices=4)
    cfg["train_cfg"].update(max_epochs=epochs, val_interval=99, dynamic_intervals=None)
    cfg.update(val_cfg=None, val_dataloader=None, val_evaluator=None, param_scheduler=[])
    cfg.update(test_cfg=None, test_dataloader=None, test_evaluator=None, randomness=dict(seed=0))
    cfg["default_hooks"]["checkpoint"]["interval"] = 1
    cfg.update(work_dir=str(tmp_path / "run"), **changes)
    return Runner.from_cfg(Config(cfg))


@pytest.mark.slow
def test_rtmdet_trains_with_its_own_recipe(tmp_path, coco):
    _make(tmp_path, "rtmdet-t", "rtmdet-s")
    runner = _runner(tmp_path, coco, epochs=1)
    before = {name: value.clone() for name, value in runner.model.named_parameters()}
    runner.train()
    names = ["loss", "student.loss_cls", *(f"distill.loss_neck{level}" for level in range(3))]
    losses = {name: runner.message_hub.get_scalar(f"train/{name}").current() for name in names}
    assert all(0 < value < 1e5 for value in losses.values()), losses
    changed = {name for name, value in runner.model.named_parameters() if not torch.equal(value, before[name])}
    parts = {name.split(".")[0] for name in changed}
    assert parts == {"architecture", "distiller"} and any(".connectors.neck0." in name for name in changed)


@pytest.mark.slow
def test_yolox_crosses_the_switch_to_its_last_epochs(tmp_path, coco):
    _make(tmp_path, "yolox_tiny", "yolox_s_8x8_300e_coco")
    hooks = read_config(tmp_path / "my_config.py").custom_hooks
    hooks = [dict(hook, num_last_epochs=1) if hook.type == "YOLOXModeSwitchHook" else dict(hook) for hook in hooks]

    runner = _runner(tmp_path, coco, epochs=3, custom_hooks=hooks)
    runner.train()
    assert runner.model.student.bbox_head.use_l1 and not runner.model.teacher.bbox_head.use_l1
    assert runner.message_hub.get_scalar("train/student.loss_l1").current() > 0
    # The student alone comes out of the checkpoint, with the averaged weights.
    call_tool("model_converters/convert_kd_ckpt_to_student.py", tmp_path / "run/epoch_3.pth")
    load_model("mmdet::yolox/yolox_tiny_8xb8-300e_coco.py", tmp_path / "run/epoch_3_student.pth")

    (tmp_path / "run/epoch_3.pth").unlink()
    (tmp_path / "run/last_checkpoint").write_text(str(tmp_path / "run/epoch_2.pth"))
    resumed = _runner(tmp_path, coco, epochs=3, custom_hooks=hooks, resume=True)
    resumed.train()
    assert resumed.model.student.bbox_head.use_l1 and (tmp_path / "run/epoch_3.pth").is_file()


@pytest.mark.slow
def test_crosskd_trains_evaluates_both_resumes_and_converts(tmp_path, coco):
    _make(tmp_path, RETINANET.format("r18"), "retinanet_pvtv2-b0", "--method", "crosskd")
    cfg = overlay(tmp_path / "my_config.py", coco.parent, 128, tmp_path)
    cfg.update(work_dir=str(tmp_path / "run"), custom_hooks=[])
    for side in ("architecture", "teacher"):
        cfg["model"][side]["test_cfg"] = dict(score_thr=0.0)  # with random weights nothing would be found
    runner = Runner.from_cfg(Config(cfg))
    runner.train()
    losses = {name: runner.message_hub.get_scalar(f"train/crosskd.loss_{name}").current() for name in ("cls", "reg")}
    assert all(0 < value < 1e4 for value in losses.values()), losses
    for side in ("", "teacher."):
        assert runner.message_hub.get_scalar(f"val/{side}coco/bbox_mAP").current() >= 0
    cfg["train_cfg"]["max_epochs"] = 2
    Runner.from_cfg(Config({**cfg, "resume": True})).train()
    call_tool("model_converters/convert_kd_ckpt_to_student.py", tmp_path / "run/epoch_2.pth")
    load_model(f"mmdet::{STOCK}", tmp_path / "run/epoch_2_student.pth")
