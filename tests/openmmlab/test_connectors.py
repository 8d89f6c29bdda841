"""TokensToMap against what vision transformers themselves put out as maps."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.structures import PixelData
from mmrazor.registry import MODELS
from mmseg.structures import SegDataSample

from cankd.openmmlab.compat import CLASSIFICATION
from cankd.openmmlab.configs import read_config
from cankd.openmmlab.connectors import TokensToMap
from tests.conftest import ROOT

ARCH = dict(embed_dims=32, num_layers=2, num_heads=4, feedforward_channels=32)
VIT: dict[str, Any] = dict(type="VisionTransformer", patch_size=16)
BACKBONES: dict[str, tuple[dict, str, dict]] = {
    "ViT": (VIT, "ln1", dict(patch_size=16)),
    "BEiT": (dict(type="BEiTViT", patch_size=16, final_norm=False), "layers.1", dict(patch_size=16)),
    "DINOv2": (dict(VIT, patch_size=14), "ln1", dict(patch_size=14)),
    "no class token": (dict(VIT, with_cls_token=False), "ln1", dict(patch_size=(16, 16), extra_tokens=0)),
}
if CLASSIFICATION == "mmpretrain":
    FEATURE_MAPS: dict[str, Any] = dict(out_type="featmap")
else:
    del BACKBONES["no class token"], BACKBONES["BEiT"]
    FEATURE_MAPS = dict(output_cls_token=False)


@pytest.mark.parametrize("size", [(64, 96), (56, 70)], ids=str)
@pytest.mark.parametrize("name", BACKBONES)
def test_tokens_lie_where_the_backbone_lays_them(name, size):
    config, source, arguments = BACKBONES[name]
    models = importlib.import_module(f"{CLASSIFICATION}.models").BACKBONES
    trained_at = size if name == "BEiT" else 64  # the others take images of any size
    backbone = models.build(dict(config, arch=ARCH, img_size=trained_at, **FEATURE_MAPS))
    backbone.eval()
    tokens = []
    backbone.get_submodule(source).register_forward_hook(lambda *call: tokens.append(call[2]))
    with torch.no_grad():
        (expected,) = backbone(torch.randn(2, 3, *size))
    connector = MODELS.build(dict(type="mmrazor.TokensToMap", **arguments))
    connector.set_image_sizes(size, size)
    assert torch.equal(connector(tokens[0]), expected)
    assert expected.shape[2] != expected.shape[3]


def test_a_map_of_padded_images_is_cropped():
    tokens = torch.arange(1.0, 25).reshape(1, 24, 1)
    connector = TokensToMap(patch_size=16, extra_tokens=0)
    connector.set_image_sizes((64, 96), (48, 72))  # the teacher's images, padded, and the student's
    assert connector(tokens)[0, 0].tolist() == [[1, 2, 3, 4, 5], [7, 8, 9, 10, 11], [13, 14, 15, 16, 17]]


@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [
        ((2, 26, 8), (64, 96), "got 26 tokens of images of 64 x 96, expected 4 x 6 patches of 16 x 16 and 1 extra"),
        ((2, 8, 4, 6), (64, 96), r"got \(2, 8, 4, 6\), expected tokens \(B, N, C\)"),
        ((2, 25, 8), None, "got no size of the images"),
    ],
)
def test_what_does_not_fit_is_one_line(shape, size, message):
    connector = TokensToMap()
    if size:
        connector.set_image_sizes(size, size)
    with pytest.raises(ValueError, match=f"TokensToMap: {message}") as error:
        connector(torch.rand(shape))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_vit_teaches_a_segmenter_on_images_that_are_not_square():
    MMLogger.get_current_instance().setLevel("WARNING")  # every initialised tensor is a line
    cfg = read_config(ROOT / "configs/distill/mmseg/cankd/cankd_backbone_vit-b16_pspnet_r18_80k_cityscapes.py")
    cfg.model.teacher_ckpt = None
    cfg.model.architecture.update(pretrained=None, backbone=dict(init_cfg=None))
    cfg.model.teacher.backbone = dict(arch=dict(ARCH, embed_dims=768), drop_rate=0.0)
    algorithm = MODELS.build(cfg.model).train()
    algorithm.init_weights()
    (loss,) = algorithm.distiller.distill_losses.values()
    compared = []
    loss.register_forward_pre_hook(lambda *call: compared.append(call[2]["t_feature"]), with_kwargs=True)
    images = [torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8) for _ in range(2)]
    labels = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 19, (1, 64, 96)))) for _ in images]
    algorithm.data_preprocessor.size = (64, 96)
    optim_wrapper = build_optim_wrapper(algorithm, cfg.optim_wrapper)
    before = {name: value.clone() for name, value in algorithm.state_dict().items()}
    values = algorithm.train_step(dict(inputs=images, data_samples=labels), optim_wrapper)
    assert values["distill.loss_backbone"] > 0 and all(value.isfinite() for value in values.values())

    teacher = algorithm.teacher
    for argument, value in FEATURE_MAPS.items():
        setattr(teacher.backbone, argument, value)
    with torch.no_grad():  # the teacher's own preprocessing of the same pixels
        own = teacher.data_preprocessor(dict(inputs=[image.float() for image in images]), False)["inputs"]
        (expected,) = teacher.backbone(own)
    assert expected.shape == (2, 768, 4, 6)
    torch.testing.assert_close(compared[0], expected, rtol=1e-4, atol=1e-4)
    changed = {name for name, value in algorithm.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("distiller.connectors.backbone.") for name in changed)
    assert any(name.startswith("architecture.backbone.layer4.") for name in changed)
    assert not any(name.startswith("teacher.") for name in changed)
