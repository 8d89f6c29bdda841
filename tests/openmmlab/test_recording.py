"""Hooks record what they should, and leave nothing behind."""

from __future__ import annotations

import pytest
import torch
from mmrazor.registry import MODELS
from torch import nn

from cankd.openmmlab.commands.list_modules import recordable_shapes
from cankd.openmmlab.configs import read_config
from cankd.openmmlab.inference import noise_batch
from cankd.openmmlab.loading import build_model
from cankd.openmmlab.recording import (
    describe_records,
    record_predictions,
    recorded_calls,
    recorded_inputs,
    watch_calls,
)


class Model(nn.Module):
    """Runs one layer twice and another one never."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused, self.last = nn.Linear(2, 2), nn.Linear(2, 2), nn.Identity()

    def scale(self, x, *, factor=2):
        return factor * x

    def forward(self, x):
        return self.last(self.used(self.used(self.scale(x))))


def _hooks(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


def test_inputs_and_calls_are_recorded_inside_the_block_alone():
    model, x = Model(), torch.ones(1, 2)
    with pytest.raises(RuntimeError), recorded_inputs({"a": model.used, "b": model.unused}) as inputs:
        with recorded_calls(model, "scale") as calls:
            model(x)
        model(torch.ones(1, 3))
    model(x)
    assert torch.equal(inputs["a"][0], 2 * x) and torch.equal(inputs["a"][1], model.used(2 * x))
    assert len(inputs["a"]) == 3 and inputs["b"] == []
    ((arguments, result),) = calls
    assert arguments == (x,) and torch.equal(result, 2 * x)
    assert _hooks(model) == 0 and "scale" not in vars(model)


def test_calls_are_watched_until_a_module_runs():
    model = Model()
    seen: list[set[str]] = []
    watch_calls({"used": model.used, "unused": model.unused}, until=model.last, then=seen.append)
    for _ in range(2):
        model(torch.ones(1, 2))
    assert seen == [{"used"}] and _hooks(model) == 0


def test_records_are_described_by_their_shapes():
    assert describe_records([torch.ones(2, 3), (torch.ones(1), None)]) == "[(2, 3), [(1,), NoneType]]"


def test_maps_that_a_backbone_returns_in_training_alone_are_recorded():
    cfg = read_config("mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py")
    model = build_model(cfg)
    data = model.data_preprocessor(noise_batch(cfg, (64, 64)), False)
    maps = recordable_shapes(model, data)["backbone"]
    assert maps == {(0, 0): (1, 64, 8, 8), (0, 1): (1, 128, 8, 8), (0, 2): (1, 64, 8, 8)}
    distiller = MODELS.build(dict(type="LevelDistiller", source="backbone", levels=[1], loss=dict(type="L2Loss")))
    distiller.prepare_from_student(model)
    distiller.prepare_from_teacher(model)
    record_predictions(distiller, model, model, data)
    with torch.no_grad():
        predicted = model.backbone(data["inputs"])
    for record in distiller.loss_forward_mappings["loss_backbone1"].values():
        assert torch.equal(distiller.get_record(**record), predicted)
    assert not any(module.training for module in model.modules())
