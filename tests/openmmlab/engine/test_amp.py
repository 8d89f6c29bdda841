"""Training steps in mixed precision, of a real detector's and a real segmenter's distillation."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import init_default_scope

from cankd.openmmlab.analysis.benchmark_step import build, random_batch
from cankd.openmmlab.configs import read_config
from tests.conftest import ROOT, TOLERANCE, relative_error
from tests.demo import CANKD

PSPNET = ROOT / "configs/distill/mmseg/cankd/cankd_backbone_pspnet_r101_pspnet_r18_80k_cityscapes.py"
# Student's loss, distillation loss.
NAMES = {"RetinaNet": ("student.loss_cls", "distill.loss_fpn0"), "PSPNet": ("student.decode.loss_ce", "distill.loss_")}


class CPUAmpOptimWrapper(AmpOptimWrapper):
    """mmengine's wrapper, whose constructor refuses CPUs; bfloat16 needs no scale on the loss."""

    def __init__(self, dtype: torch.dtype, **kwargs: Any) -> None:
        OptimWrapper.__init__(self, **kwargs)
        self.loss_scaler, self._scale_update_param = torch.cuda.amp.GradScaler(enabled=False), None
        self.cast_dtype = dtype


def _wrapper(device, optimizer):
    """Returns mmengine's wrapper in the type that it uses by default on a device."""
    if device == "cpu":
        return CPUAmpOptimWrapper(torch.bfloat16, optimizer=optimizer)
    # The default scale is lowered first, in steps without an update.
    return AmpOptimWrapper(loss_scale={"init_scale": 2.0**10}, dtype="float16", optimizer=optimizer)


def _algorithm(recipe):
    cfg = read_config(recipe)
    cfg.model.teacher_ckpt = None
    init_default_scope(cfg.default_scope)
    algorithm: Any = build(cfg, "ours", "cpu")
    for module in algorithm.modules():
        if isinstance(module, (torch.nn.Dropout, torch.nn.Dropout2d)):
            module.p = 0.0
    if getattr(algorithm.data_preprocessor, "size", None):
        algorithm.data_preprocessor.size = (64, 64)
    return algorithm


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_step_trains_and_its_losses_are_float32_s_up_to_rounding(name, device):
    algorithm = _algorithm(CANKD if name == "RetinaNet" else PSPNET)
    batch = random_batch(algorithm.student, 2, (64, 64))
    plain = copy.deepcopy(algorithm)
    expected = plain.train_step(batch, OptimWrapper(torch.optim.SGD(plain.parameters(), lr=0.0)))
    assert all(any(logged.startswith(wanted) for logged in expected) for wanted in NAMES[name])
    before = copy.deepcopy(algorithm.state_dict())
    algorithm.to(device)
    types: list = []
    algorithm.student.backbone.register_forward_hook(lambda *call: types.append(call[2][-1].dtype))
    wrapper = _wrapper(device, torch.optim.SGD(algorithm.parameters(), lr=1e-3))
    logged = algorithm.train_step(batch, wrapper)
    assert types == [wrapper.cast_dtype]
    for loss, value in expected.items():
        if "loss" in loss:
            # In float16, mmcv's focal loss rounds the 1e-6 that most anchors add.
            tolerance = 0.2 if loss.startswith("student.") else TOLERANCE[wrapper.cast_dtype]
            assert relative_error(logged[loss], value) < tolerance, loss
    trained = {key for key, value in algorithm.state_dict().items() if not torch.equal(value.cpu(), before[key])}
    assert not any(key.startswith("teacher.") for key in trained)
    parameters = {key for key, value in algorithm.named_parameters() if value.requires_grad}
    assert len(trained & parameters) > 0.7 * len(parameters) > 30
    assert any(key.startswith("distiller.") for key in trained & parameters)
    assert all(value.isfinite().all() for value in algorithm.state_dict().values())
