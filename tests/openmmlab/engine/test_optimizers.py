"""Layer-wise learning rates: the student of a distillation has those of its own recipe."""

from __future__ import annotations

import pytest
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from torch import nn

from cankd.openmmlab.compat import CLASSIFICATION
from cankd.openmmlab.configs import in_scope, read_config
from cankd.openmmlab.engine import Runner
from cankd.openmmlab.loading import build_model

# ConvNeXt, by layers or by stages, is a backbone of mmpretrain, which the paper's stack does not have.
NEED_MMPRETRAIN = [
    "mmdet::convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py",
    "mmseg::convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py",
    "mmpretrain::mae/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k.py",
]
STUDENTS = [
    "mmseg::mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py",
    *(NEED_MMPRETRAIN if CLASSIFICATION == "mmpretrain" else []),
]
CHANNELS = 768  # of the last map of each
SMALL = "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py"


def _settings(model: nn.Module, built: OptimWrapper) -> dict[str, tuple[float, float]]:
    """Name of each parameter -> its learning rate and weight decay."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in built.optimizer.param_groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize("student", STUDENTS)
def test_a_student_has_the_rates_of_its_own_recipe(student, tmp_path):
    stock = read_config(student)
    stock.optim_wrapper.type = "OptimWrapper"  # mixed precision needs a GPU
    stock.optim_wrapper.pop("loss_scale", None)
    with in_scope(stock):
        model = build_model(stock)
        expected = _settings(model, build_optim_wrapper(model, stock.optim_wrapper))
        assert len({rate for rate, _ in expected.values()}) > 3
    connector = dict(type="ConvModuleConnector", in_channel=CHANNELS, out_channel=256, act_cfg=None)
    cfg = Config(
        dict(
            default_scope=stock.default_scope,
            work_dir=str(tmp_path),
            train_dataloader=dict(dataset=None),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=stock.optim_wrapper,
            model=dict(
                _scope_="mmrazor",
                type="PartialTeacherDistill",
                architecture=dict(type="StockModel", cfg=student),
                teacher=dict(type="StockModel", cfg=SMALL),
                distiller=dict(type="LevelDistiller", source="backbone", loss=dict(type="L2Loss"), connector=connector),
            ),
        )
    )
    runner = Runner.from_cfg(cfg)
    found = _settings(runner.model, runner.build_optim_wrapper(cfg.optim_wrapper))
    base = stock.optim_wrapper.optimizer
    connectors = {name for name, _ in runner.model.named_parameters() if name.startswith("distiller.connectors.")}
    assert connectors and {name: found.pop(name) for name in connectors} == dict.fromkeys(
        connectors, (base.lr, base.weight_decay)
    )
    assert found == {f"architecture.{name}": value for name, value in expected.items()}
