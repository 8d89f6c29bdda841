"""The README's example of the loss in a plain PyTorch loop trains a student."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from tests.conftest import ROOT

# What keeps the test off the network and short; the example is otherwise run as it stands.
SMALL = [
    (
        'retinanet_resnet50_fpn(weights="DEFAULT")',
        "retinanet_resnet50_fpn(weights=None, weights_backbone=None, **size)",
    ),
    ('weights="DEFAULT", returned_layers', "weights=None, returned_layers"),
    ("num_classes=91)", "num_classes=91, **size)"),
]


@pytest.mark.slow
def test_the_example_trains_three_steps():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = re.search(r"<!-- plain PyTorch -->\n```python\n(.*?)```\n<!-- end of plain PyTorch -->", readme, re.S)
    assert example and len(example.group(1).splitlines()) <= 30
    code = example.group(1)
    for published, small in SMALL:
        assert code.count(published) == 1
        code = code.replace(published, small)
    steps: list[dict[str, Any]] = []
    target = {"boxes": torch.tensor([[10.0, 10.0, 60.0, 60.0]]), "labels": torch.tensor([1])}
    scope: dict[str, Any] = {"size": {"min_size": 96, "max_size": 128}}

    def batches():
        for _ in range(4):
            if "distill_loss" in scope:
                block = scope["losses"][0].block
                steps.append({"loss": scope["distill_loss"].item(), "weight": block.bn.weight.detach().clone()})
            yield [torch.rand(3, 96, 128) for _ in range(2)], [target, target]

    scope["loader"] = batches()
    exec(code, scope)
    assert len(steps) == 3 and all(0 < step["loss"] < 100 for step in steps)
    assert not torch.equal(steps[0]["weight"], steps[2]["weight"])
    assert all(parameter.grad is None for parameter in scope["teacher"].parameters())
    trained = [parameter.grad for parameter in scope["student"].backbone.body.layer4.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in trained)
