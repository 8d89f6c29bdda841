"""Parameters and multiply-adds of losses and models."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch

from cankd.losses import NLKDINLoss
from cankd.losses.cankd_naive import NaiveNLKDINLoss
from cankd.openmmlab.analysis.complexity import MultiplyAdds
from tests.in_process import call_tool
from tests.openmmlab.analysis.shared import refused


def test_table_5_is_made_again_and_the_products_come_out_cheaper(tmp_path):
    done = call_tool("analysis_tools/complexity.py", "--out", tmp_path / "cost.json")
    costs = json.loads((tmp_path / "cost.json").read_text())["multiply_adds"]
    paper, linear = costs["CanKD, paper's order"], costs["CanKD, linear order"]
    for name, flops, parameters in (
        ("FKD", 3.238, 0.461),  # the paper prints 3.23 and 0.46
        ("MGD", 9.664, 1.180),
        ("CanKD, paper's order", 1.091, 0.132),
        ("CanKD, linear order", 1.091, 0.132),
    ):
        assert costs[name]["thop"] / 1e9 == pytest.approx(flops, abs=5e-4), name
        assert costs[name]["parameters"] / 1e6 == pytest.approx(parameters, abs=5e-4), name
    # 1x1 convolutions of both maps; then either theta phi and A g, or phi g, W_z of it and one product.
    batch, channels, inner, positions, pooled = 2, 256, 128, 64 * 64, 32 * 32
    convolutions = batch * 3 * positions * channels * inner
    w_z = batch * positions * inner * channels
    assert paper["counted"] == convolutions + w_z + batch * 2 * positions * pooled * inner
    context = batch * (pooled * inner * inner + channels * inner * inner)
    assert linear["counted"] == convolutions + context + w_z
    assert f"{paper['counted'] / 1e9:.3f}" in done.stdout


# Two images of 16 channels and 120 positions, 30 after pooling, 8 channels inside: a 1x1 convolution of all
# positions is 30720, a product over all pairs of positions 57600 or, of 16 channels, 115200.
NAIVE_COSTS = {
    "dot_product": 4 * 30720 + 2 * 57600,
    "embedded_gaussian": 4 * 30720 + 2 * 57600,
    "gaussian": 2 * 30720 + 115200 + 57600,
    "concatenation": 4 * 30720 + 115200 + 57600,
}


@pytest.mark.parametrize("affinity", NAIVE_COSTS)
def test_multiply_adds_are_those_of_the_formulas_and_of_torchs_own_counter(affinity):
    x, y = torch.randn(2, 2, 16, 12, 10)
    loss = NaiveNLKDINLoss(16, affinity=affinity)
    with MultiplyAdds() as counter:
        loss(x, y)
    assert counter.total == NAIVE_COSTS[affinity]
    if importlib.util.find_spec("torch.utils.flop_counter"):  # from torch 2.1 on
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as expected:
            loss(x, y)
        assert expected.get_total_flops() == 2 * counter.total


def test_multiply_adds_of_transposed_convolutions_and_of_fused_attention():
    x, y = torch.randn(2, 2, 16, 12, 10)
    with MultiplyAdds() as counter:
        torch.nn.ConvTranspose2d(16, 5, 3, stride=2)(x)
    assert counter.total == x.numel() * 5 * 9
    # Whichever way torch computes attention here, it is the products of the matrix form.
    with torch.no_grad(), MultiplyAdds() as counter:
        NLKDINLoss(16, affinity="embedded_gaussian")(x, y)
    assert counter.total == NAIVE_COSTS["embedded_gaussian"]


def test_complexity_refuses_a_shape_that_is_none():
    assert "expected B C H W" in refused("complexity", "--shape", 2, 256, 0, 64)
