"""The attention of CanKD's block and its pictures."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.structures import BaseDataElement

from cankd.losses import NLKDINLoss
from cankd.losses.cankd_naive import NaiveNLKDINLoss
from cankd.openmmlab.checkpoint_files import load_checkpoint_file
from cankd.openmmlab.compat import CLASSIFICATION
from cankd.openmmlab.inference import prepare
from cankd.openmmlab.loading import load_distillation
from cankd.openmmlab.visualization import View
from cankd.openmmlab.visualization.attention import (
    Attention,
    attend,
    attention_row,
    draw_attention,
    fractions,
    residual_share,
)
from cankd.openmmlab.visualization.features import (
    network_view,
)
from tests.conftest import enliven, relative_error
from tests.demo import CANKD, STUDENT
from tests.in_process import call_tool
from tests.openmmlab.visualization.shared import pixels, refused, where


@pytest.mark.parametrize("pool_size", [1, 2])
@pytest.mark.parametrize("affinity", ["dot_product", "gaussian", "embedded_gaussian", "concatenation"])
def test_attention_rows_are_the_naive_matrix(affinity, pool_size):
    # The naive loss does not return its matrix A. With one-hot values g_j = e_j, what it hands to W_z is A.
    height, width = 6, 8
    size = (height // pool_size, width // pool_size)
    pooled = size[0] * size[1]
    channels = 60 + pooled
    naive = NaiveNLKDINLoss(channels, pooled, affinity, pool_size).double()
    loss = NLKDINLoss(channels, pooled, affinity, pool_size).double()
    enliven(naive)
    with torch.no_grad():
        for parameter in naive.g.parameters():
            parameter.zero_()
        naive.g.weight[:, 60:, 0, 0] = torch.eye(pooled)
    loss.load_state_dict({f"block.{key}": value for key, value in naive.state_dict().items()})
    x, y = torch.randn(2, 1, channels, height, width).double() * 0.3
    y[:, 60:] = F.interpolate(torch.eye(pooled).view(1, pooled, *size).double(), (height, width), mode="nearest")
    matrix: list[torch.Tensor] = []
    naive.w_z.register_forward_hook(lambda module, inputs, output: matrix.append(inputs[0][0]))
    naive(x, y)
    assert matrix[0].std(dim=0).max() > 1e-5
    for row in range(height):
        for column in range(width):
            attention = attention_row(loss.block, x, y, (row, column))
            assert attention.shape == size
            assert relative_error(attention.flatten(), matrix[0][:, row, column]) < 1e-10


def test_the_share_is_the_part_that_the_block_adds():
    block = NLKDINLoss(6).block.eval()
    x, y = torch.randn(1, 6, 8, 8), torch.randn(1, 6, 8, 8)
    share, share_map = residual_share(block, x, y)
    assert share == 0 and not share_map.any()  # every training starts here
    enliven(block)
    added = block(x, y) - x
    share, share_map = residual_share(block, x, y)
    assert share == pytest.approx((added.norm() / (added.norm() + x.norm())).item(), rel=1e-4) and 0 < share < 1
    at = added[0, :, 2, 5].norm() / (added[0, :, 2, 5].norm() + x[0, :, 2, 5].norm())
    assert share_map[2, 5].item() == pytest.approx(at.item(), rel=1e-4)
    bare = NLKDINLoss(6, residual=False).block.eval()
    enliven(bare)
    assert residual_share(bare, x, y)[0] == 1


RESIZE = dict(type="Resize", scale=(160, 120), keep_ratio=True)


POINTED = {
    "classifier": (CLASSIFICATION, [dict(type="ResizeEdge", scale=64), dict(type="CenterCrop", crop_size=56)]),
    "padded": ("mmdet", [RESIZE, dict(type="Pad", size_divisor=32)]),
    "segmenter": ("mmseg", [dict(RESIZE, keep_ratio=False)]),
    "untouched": ("mmdet", []),
}


@pytest.mark.parametrize("kind", POINTED)
@pytest.mark.parametrize("size", [(180, 320), (320, 180)])
def test_a_point_lands_where_the_model_sees_it(kind, size, tmp_path):
    scope, steps = POINTED[kind]
    pack = {"mmdet": "PackDetInputs", "mmseg": "PackSegInputs", "mmpretrain": "PackInputs", "mmcls": "PackClsInputs"}
    pipeline = [dict(type="LoadImageFromFile"), *steps, dict(type=pack[scope])]
    cfg = Config(dict(default_scope=scope, model={}, test_dataloader=dict(dataset=dict(pipeline=pipeline))))
    height, width = size
    for x, y in ((width / 2, height / 2), (0.37 * width, 0.63 * height)):
        image = np.zeros((*size, 3), np.uint8)
        cv2.circle(image, (round(x - 0.5), round(y - 0.5)), 8, (255, 255, 255), -1)
        cv2.imwrite(str(tmp_path / "image.png"), image)
        batch = prepare(cfg, tmp_path / "image.png")
        view = network_view(batch, (batch["inputs"][0].shape[1] + 40, batch["inputs"][0].shape[2] + 8))
        ((u, v),) = fractions([(x, y)], batch["data_samples"][0], view)
        rows, columns = np.nonzero(view.image[..., 0] > 127)
        assert u * view.covered[1] == pytest.approx(columns.mean() + 0.5, abs=0.8)
        assert v * view.covered[0] == pytest.approx(rows.mean() + 0.5, abs=0.8)
    (centre,) = fractions(None, batch["data_samples"][0], view)
    assert centre == fractions([(width / 2, height / 2)], batch["data_samples"][0], view)[0] and max(centre) < 1


def test_points_that_the_model_does_not_see_are_refused():
    sample = BaseDataElement(metainfo=dict(ori_shape=(360, 640), scale_factor=(455 / 640, 256 / 360)))
    view = View(np.zeros((224, 224, 3), np.uint8), (224, 224))
    assert fractions(None, sample, view) == [pytest.approx((0.5, 0.5), abs=0.01)]
    for point in ((640, 180), (-1, 180), (150, 180), (320, 10)):
        with pytest.raises(ValueError, match="640 x 360 pixels, of which the model sees x from 163.* to 478.* and y"):
            fractions([point], sample, view)


def test_attention_is_drawn_with_its_position(tmp_path):
    row = np.zeros((12, 12))
    row[9, 1] = 1
    view = View(np.full((96, 96, 3), 255, np.uint8), (96, 96))
    attention = Attention([row], [(2, 17)], (24, 24), (1.0, 1.0), 0.0, np.zeros((24, 24)))
    draw_attention(view, {"loss": attention}, tmp_path / "attention.png", alpha=1.0)
    picture = pixels(tmp_path / "attention.png")
    # the upper map is where rows are mostly dark, down to the first that is not
    dark = np.all(np.abs(picture - (68, 1, 84)) <= 12, axis=2)
    full = np.nonzero(dark.sum(axis=1) > picture.shape[1] / 3)[0]
    bottom = full[0] + np.argmax(np.diff(np.append(full, full[-1] + 9)) > 1)
    inner = picture[
        full[0] + 3 : bottom - 2, np.nonzero(dark[full[0]])[0].min() + 3 : np.nonzero(dark[full[0]])[0].max() - 2
    ]
    for color, (y, x) in (((0, 0, 0), (2.5 / 24, 17.5 / 24)), ((253, 231, 37), (9.5 / 12, 1.5 / 12))):
        rows, columns = where(inner, color, near=40)
        assert rows.mean() / inner.shape[0] == pytest.approx(y, abs=0.02)
        assert columns.mean() / inner.shape[1] == pytest.approx(x, abs=0.02)


def _alive(distilled, folder):
    """A copy of a checkpoint whose losses' blocks have random weights."""
    checkpoint = load_checkpoint_file(distilled)
    generator = torch.Generator().manual_seed(0)
    for key, value in checkpoint["state_dict"].items():
        if ".block." in key and "running" not in key and value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    torch.save(checkpoint, folder / "alive.pth")
    return folder / "alive.pth"


@pytest.mark.slow
def test_a_teacher_with_its_own_preprocessing(distilled, scene, tmp_path):
    preprocessor = {"mean": [0.0] * 3, "std": [255.0] * 3, "bgr_to_rgb": False, "pad_size_divisor": 64}
    options = {f"model.teacher.data_preprocessor.{key}": value for key, value in preprocessor.items()}
    options["model.teacher_preprocess"] = True
    arguments = [scene, CANKD, _alive(distilled, tmp_path), "--out-file", tmp_path / "attention.png", "--cfg-options"]
    printed = call_tool(
        "visualizations/attention.py", *arguments, *(f"{key}={value}" for key, value in options.items())
    ).stdout
    student, teacher, distiller, cfg = load_distillation(CANKD, tmp_path / "alive.pth", cfg_options=options)
    own, theirs = (model.data_preprocessor(prepare(cfg, scene), False)["inputs"] for model in (student, teacher))
    assert own.shape[2:] == (96, 96) and theirs.shape[2:] == (128, 128)
    shares = []
    with torch.no_grad():
        for images in (theirs, own):
            x, y = student.extract_feat(own)[0], teacher.extract_feat(images)[0][:, :, :24, :24]
            shares.append(100 * residual_share(distiller.distill_losses["loss_fpn0"].block, x, y)[0])
    assert float(printed.split("loss_fpn0 ")[1].split(" %")[0]) == pytest.approx(shares[0], abs=0.06)
    assert abs(shares[0] - shares[1]) > 0.12


@pytest.mark.slow
def test_the_attention_tool_prints_the_share_of_the_block(distilled, scene, tmp_path):
    _alive(distilled, tmp_path)
    out = tmp_path / "attention.png"
    arguments = [scene, CANKD, tmp_path / "alive.pth", "--losses", "loss_fpn0", "--points", "70,10", "--out-file", out]
    printed = call_tool("visualizations/attention.py", *arguments).stdout

    student, teacher, distiller, cfg = load_distillation(CANKD, tmp_path / "alive.pth")
    data = student.data_preprocessor(prepare(cfg, scene), False)
    with torch.no_grad():
        x, y = (model.extract_feat(data["inputs"])[0] for model in (student, teacher))
        share, _ = residual_share(distiller.distill_losses["loss_fpn0"].block, x, y)
    assert f"loss_fpn0 {100 * share:.1f} %" in printed and share > 0.01

    assert out.is_file()
    for point, message in (("96,10", "expected a point within the image of 96 x 96"), ("1,2,3", "invalid point value")):
        done = call_tool("visualizations/attention.py", *arguments, "--points", point, check=False)
        assert done.returncode != 0 and message in done.stdout
    assert "got loss_fpn9" in refused("attention", *arguments, "--losses", "loss_fpn9")
    assert "expected a distillation's" in refused("attention", scene, STUDENT, tmp_path / "alive.pth")


@pytest.mark.slow
def test_attention_of_a_segmenter_goes_through_its_connector(segmenter, segmentation, tmp_path):
    config, checkpoint = segmentation
    out = tmp_path / "attention.png"
    call_tool("visualizations/attention.py", segmenter[2], config, checkpoint, "--out-file", out)
    student, teacher, distiller, cfg = load_distillation(config, checkpoint)
    data = student.data_preprocessor(prepare(cfg, segmenter[2]), False)
    attention = attend(student, teacher, distiller, data, [(0.5, 0.5)])["loss_backbone"]
    with torch.no_grad():
        x, y = (model.extract_feat(data["inputs"])[3] for model in (student, teacher))
        x = distiller.connectors["backbone"](x)
        expected = attention_row(distiller.distill_losses["loss_backbone"].block, x, y, attention.cells[0])
    assert attention.size == tuple(x.shape[2:]) == (10, 16) and attention.cells == [(5, 8)]
    assert np.array_equal(attention.rows[0], expected.numpy()) and attention.rows[0].shape == (5, 8)
    with pytest.raises(ValueError, match="expected at least one in distiller.distill_losses"):
        del distiller.distill_losses["loss_backbone"]
        attend(student, teacher, distiller, data, [])
