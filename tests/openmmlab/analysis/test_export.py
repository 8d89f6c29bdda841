"""Students as ONNX: the command on real checkpoints, and every kind of model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from mmrazor.registry import MODELS

from cankd.openmmlab.analysis.export import DensePart, check_exportable, export_and_check, teacher_of, weights_sha256
from cankd.openmmlab.checkpoint import Checkpoint
from cankd.openmmlab.checkpoint_files import load_checkpoint_file
from cankd.openmmlab.configs import read_config
from cankd.openmmlab.inference import prepare
from cankd.openmmlab.loading import load_model
from cankd.openmmlab.models import stock_model
from tests.conftest import ROOT
from tests.in_process import call_tool

DEMO = ROOT / "configs/demo"
STUDENT, CANKD = DEMO / "quickstart_student.py", DEMO / "quickstart_cankd.py"
REPPOINTS = "mmdet::reppoints/reppoints-moment_r50_fpn-gn_head-gn_1x_coco.py"
PSPNET = "mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py"
TEACHER_CKPT = DEMO / "quickstart_teacher.pth"


@pytest.fixture(scope="module")
def distilled(tmp_path_factory) -> Path:
    """A distillation checkpoint: the shipped teacher beside a random student."""
    file = tmp_path_factory.mktemp("distilled") / "run.pth"
    cfg = read_config(CANKD)
    algorithm = MODELS.build(cfg.model)
    algorithm.architecture.init_weights()
    torch.save({"state_dict": algorithm.state_dict(), "meta": {"cfg": cfg.pretty_text}}, file)
    return file


def run_file(file: Path, image: torch.Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image.numpy()})


@pytest.mark.slow
def test_outputs_equal_torchs_on_several_images(distilled, mini_data, tmp_path):
    images = sorted((mini_data / "val").glob("*.png"))[:4]
    metrics = tmp_path / "metrics.json"
    metrics.write_text(json.dumps({"coco/bbox_mAP": 0.25}))
    out = tmp_path / "student.onnx"
    call_tool("deployment/export_student.py", CANKD, distilled, "--out", out, "--images", *images, "--metrics", metrics)
    model, cfg = load_model(CANKD, distilled)
    outputs = []
    for image in images:
        pixels = model.data_preprocessor(prepare(cfg, image), False)["inputs"]
        with torch.no_grad():
            features = model.extract_feat(pixels)
            expected = [*features, *(level for levels in model.bbox_head(features) for level in levels)]
        outputs.append(run_file(out, pixels))
        assert len(outputs[-1]) == len(expected) == 12
        for got, want in zip(outputs[-1], expected):
            assert np.allclose(got, want.numpy(), rtol=1e-4, atol=1e-5)
    assert not np.allclose(outputs[0][0], outputs[1][0])  # the images differ, so there was something to compare

    story = json.loads(out.with_suffix(".json").read_text())
    assert story["onnx"]["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert story["onnx"]["parts"] == ["backbone", "neck", "bbox_head"]
    assert story["compared"]["images"] == [image.name for image in images]
    assert story["outputs"]["neck_0"] == [1, 64, 24, 24] and story["metrics"] == {"coco/bbox_mAP": 0.25}
    assert story["input"]["mean"] == pytest.approx([123.675, 116.28, 103.53]) and story["input"]["bgr_to_rgb"]
    # The teacher is known by its weights, whether they come from its own file or from the distillation's.
    teacher = load_checkpoint_file(TEACHER_CKPT)["state_dict"]
    assert story["teacher"]["weights_sha256"] == weights_sha256(teacher)
    assert story["teacher"]["checkpoint"] == TEACHER_CKPT.name
    assert story["teacher"]["checkpoint_sha256"] == hashlib.sha256(TEACHER_CKPT.read_bytes()).hexdigest()

    call_tool("model_converters/convert_kd_ckpt_to_student.py", distilled, "--out-path", tmp_path)
    arguments = ["--images", images[0], "--dynamic"]
    call_tool("deployment/export_student.py", STUDENT, tmp_path / "run_student.pth", *arguments)
    other = json.loads((tmp_path / "run_student.json").read_text())
    assert other["student"]["weights_sha256"] == story["student"]["weights_sha256"]
    assert other["teacher"] == story["teacher"] and other["metrics"] is None
    # The dynamic file takes other sizes and batches.
    batch = torch.randn(2, 3, 64, 128)
    with torch.no_grad():
        expected = model.extract_feat(batch)
    for got, want in zip(run_file(tmp_path / "run_student.onnx", batch), expected):
        assert np.allclose(got, want.numpy(), rtol=1e-3, atol=1e-4)


def test_the_teacher_is_the_one_that_the_run_had(distilled, tmp_path, monkeypatch):
    """By the name in the checkpoint, of a file or a URL, whatever the configuration's text says."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    checkpoint = load_checkpoint_file(distilled)
    weights = {key: value for key, value in checkpoint["state_dict"].items() if not key.startswith("teacher.")}
    url = "https://example.org/models/published.pth"
    bare = {"state_dict": weights, "meta": {"teacher_ckpt": url, "cfg": f"teacher_ckpt = '{TEACHER_CKPT}'"}}
    assert teacher_of(Checkpoint(bare)) == {"checkpoint": url, "checkpoint_sha256": None, "weights_sha256": None}
    (tmp_path / "checkpoints").mkdir()
    file = tmp_path / "checkpoints/published.pth"
    torch.save({"state_dict": {"a": torch.ones(2)}}, file)
    digests = dict(
        checkpoint_sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        weights_sha256=weights_sha256({"a": torch.ones(2)}),
    )
    assert teacher_of(Checkpoint(bare)) == {"checkpoint": url, **digests}
    bare["meta"]["teacher_ckpt"] = str(file)
    assert teacher_of(Checkpoint(bare)) == {"checkpoint": "published.pth", **digests}
    assert teacher_of(Checkpoint({"state_dict": weights}))["checkpoint"] is None


SMALL = dict(init_cfg=None, depth=18, base_channels=8)
MODELS_AND_PARTS: dict[str, tuple[dict, list[str], list[str]]] = {
    "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py": (
        dict(backbone=SMALL, neck=dict(in_channels=[8, 16, 32, 64])),
        ["backbone", "neck", "rpn_head"],
        ["neck_4", "rpn_head_9"],
    ),
    "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py": (
        dict(backbone=SMALL, neck=dict(in_channels=[8, 16, 32, 64])),
        ["backbone", "neck", "bbox_head"],
        ["neck_4", "bbox_head_14"],
    ),
    "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py": (
        dict(backbone=SMALL, neck=dict(in_channels=[16, 32, 64])),
        ["backbone", "neck"],
        ["neck_3"],
    ),
    PSPNET: (
        dict(
            backbone=dict(init_cfg=None, base_channels=8, norm_cfg=dict(type="BN")),
            pretrained=None,
            decode_head=dict(in_channels=64, channels=16, norm_cfg=dict(type="BN")),
            auxiliary_head=dict(in_channels=32, channels=8, norm_cfg=dict(type="BN")),
        ),
        ["backbone", "decode_head"],
        ["backbone_3", "decode_head_0"],
    ),
    "mmpretrain::resnet/resnet18_8xb32_in1k.py": (
        dict(backbone=dict(base_channels=8), head=dict(in_channels=64)),
        ["backbone", "neck", "head"],
        ["neck_0", "head_0"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("cfg", MODELS_AND_PARTS)
def test_every_kind_of_model_is_exported_as_far_as_it_is_dense(cfg, tmp_path):
    differences, parts, last_names = MODELS_AND_PARTS[cfg]
    model = stock_model(cfg, **differences)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # so that outputs of random weights neither die nor explode
            module.reset_running_stats()
    part = DensePart(model)
    assert list(part.parts()) == parts
    images = [torch.randn(1, 3, 96, 96) for _ in range(2)]
    errors = export_and_check(part, images, tmp_path / "model.onnx")
    assert set(last_names) <= set(errors) and max(errors.values()) < 1e-4
    with torch.no_grad():
        expected = part(images[1])
    for got, want in zip(run_file(tmp_path / "model.onnx", images[1]), expected):
        assert np.allclose(got, want.numpy(), rtol=1e-3, atol=1e-4 * float(want.abs().max()))


@pytest.mark.parametrize("dynamic", [False, True])
def test_pspnet_is_exported_at_sizes_that_its_poolings_do_not_divide(dynamic, tmp_path):
    part = DensePart(stock_model(PSPNET, **MODELS_AND_PARTS[PSPNET][0]))
    sizes = [(64, 128), (72, 200)] if dynamic else [(64, 128)] * 2
    errors = export_and_check(part, [torch.randn(1, 3, *size) for size in sizes], tmp_path / "model.onnx", dynamic)
    assert "decode_head_0" in errors
    pools = [module for module in part.modules() if isinstance(module, torch.nn.AdaptiveAvgPool2d)]
    assert [pool.output_size for pool in pools] == [1, 2, 3, 6]  # the model has its own again


def test_an_operator_that_onnx_lacks_is_one_line(tmp_path, capfd):
    model = stock_model(PSPNET, **MODELS_AND_PARTS[PSPNET][0])
    model.decode_head.psp_modules[2][0] = torch.nn.AdaptiveMaxPool2d(3)
    with pytest.raises(ValueError, match=r"^EncoderDecoder cannot be exported: .*adaptive_max_pool2d[^\n]*$") as caught:
        export_and_check(DensePart(model), [torch.randn(1, 3, 64, 128)], tmp_path / "model.onnx")
    assert len(str(caught.value)) < 300 and "graph(" not in "".join(capfd.readouterr())


def test_deformable_convolutions_are_refused_by_name(tmp_path):
    model = stock_model(REPPOINTS, backbone=dict(init_cfg=None))
    with pytest.raises(
        ValueError, match="RepPointsDetector cannot be exported.*bbox_head.reppoints_cls_conv.*mmdeploy"
    ):
        check_exportable(DensePart(model))


def test_a_model_of_nan_is_not_exported(tmp_path):
    resnet = "mmpretrain::resnet/resnet18_8xb32_in1k.py"
    model = stock_model(resnet, **MODELS_AND_PARTS[resnet][0])
    torch.nn.init.constant_(model.head.fc.bias, float("nan"))
    with pytest.raises(ValueError, match="torch's head_0 holds 1000 values of 1000 that are not finite.*nothing was"):
        export_and_check(DensePart(model), [torch.randn(1, 3, 64, 64)], tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_export_refuses_bad_input_and_leaves_nothing(distilled, mini_data, tmp_path, monkeypatch):
    image = mini_data / "val/00000.png"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    usual = ["--out", tmp_path / "x.onnx", "--images", image]

    def refused(*arguments) -> str:
        done = call_tool("deployment/export_student.py", *arguments, check=False)
        assert done.returncode == 1 and "Traceback" not in done.stdout
        return done.stdout.strip().splitlines()[-1]

    reppoints = tmp_path / "reppoints.py"
    small = "backbone=dict(init_cfg=None)"
    reppoints.write_text(f"model = dict(type='mmrazor.StockModel', cfg={REPPOINTS!r}, {small})\n")
    torch.save({"state_dict": stock_model(str(reppoints)).state_dict()}, tmp_path / "reppoints.pth")
    for arguments, message in (
        ([CANKD, tmp_path / "absent.pth", *usual], "expected an existing .pth file"),
        ([tmp_path / "absent.py", distilled, *usual], "expected an existing file"),
        ([STUDENT, TEACHER_CKPT, *usual], "does not fit"),
        ([CANKD, distilled, *usual[:2], "--images", tmp_path / "absent.png"], "absent.png, expected an image file"),
        ([CANKD, distilled, *usual[:2], "--images", broken], "cannot be read as an image"),
        ([CANKD, distilled, "--out", tmp_path / "x.pth"], "ends in .onnx"),
        ([CANKD, distilled, "--out", broken / "x.onnx", "--images", image], "broken.png"),
        ([reppoints, tmp_path / "reppoints.pth", *usual], "RepPointsDetector cannot be exported"),
        (
            [CANKD, distilled, *usual[:2], "--cfg-options", f"test_dataloader.dataset.data_root={tmp_path}/absent/"],
            "--images: the config's test data cannot be read",
        ),
    ):
        assert message in refused(*arguments)
    monkeypatch.setattr("cankd.openmmlab.analysis.export.TOLERANCE", -1.0)  # so that rounding is too much
    assert "nothing was written" in refused(CANKD, distilled, *usual)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.png", "reppoints.pth", "reppoints.py"]
