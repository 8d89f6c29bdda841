"""Tests that the loss saves memory, breaks no graph and has second derivatives."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo
from mmengine.utils import digit_version

from cankd.functional import _BOUNDED_ATTENTION
from cankd.losses import NLKDINLoss
from cankd.losses.cankd import AFFINITIES
from tests.conftest import enliven, relative_error
from tests.losses.memory import P2, P3, memory_in_own_process

# Older releases compile it in pieces.
WHOLE_GRAPH = digit_version(torch.__version__) >= digit_version("2.4.0")


@pytest.mark.slow
@pytest.mark.parametrize("affinity", AFFINITIES)
def test_compiles(affinity):
    torch._dynamo.reset()
    loss = NLKDINLoss(16, affinity=affinity)
    enliven(loss)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=WHOLE_GRAPH)
    x, y = torch.randn(2, 16, 13, 21, requires_grad=True), torch.randn(2, 16, 13, 21)
    found = []
    for module in (loss, compiled):
        value = module(x, y)
        grads = torch.autograd.grad(value, [x, *loss.parameters()])
        found.append([value, *grads])
    largest = max(part.norm().item() for part in found[0])
    for eager, graph in zip(*found):
        assert relative_error(graph, eager, floor=largest) < 1e-5


@pytest.mark.parametrize("affinity", AFFINITIES)
def test_second_derivatives(affinity):
    loss = NLKDINLoss(4, affinity=affinity).double()
    enliven(loss)
    x, y = torch.randn(1, 4, 4, 5).double(), torch.randn(1, 4, 4, 5).double()
    try:
        assert torch.autograd.gradgradcheck(lambda x: loss(x, y), x.requires_grad_())
    except RuntimeError as error:
        # torch's own attention says so itself.
        assert "gaussian" in affinity and "is not implemented" in str(error)


@pytest.mark.slow
def test_p2_needs_less_than_two_gigabytes():
    # One matrix of all pairs of positions would be 9 GB.
    assert memory_in_own_process("P2", P2, NLKDINLoss) < 2e9


@pytest.mark.slow
@pytest.mark.parametrize("affinity", ["gaussian", "embedded_gaussian"])
def test_a_softmax_over_p3_needs_less_than_its_matrix(affinity):
    # The matrix would be 564 MB, and there would be several of them. Without torch's bounded attention a block of
    # scores and its gradient, 38 MB each, come on top.
    limit = 300e6 if _BOUNDED_ATTENTION else 350e6
    assert memory_in_own_process(affinity, P3, NLKDINLoss, affinity=affinity) < limit
