"""Hooks record what they should, and leave nothing behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cankd.openmmlab.recording import describe_records, recorded_calls, recorded_inputs, watch_calls


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
