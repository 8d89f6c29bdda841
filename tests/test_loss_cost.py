"""What the loss must not cost: graph breaks, memory, second derivatives."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo
from mmengine.utils import digit_version

from cankd.analysis.benchmark import in_own_process, peak_extra_bytes
from cankd.losses import NLKDINLoss
from cankd.losses.nlkd_in_loss import AFFINITIES
from tests.conftest import enliven, relative_error

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


def _memory_of_p2(label: str) -> int:
    """Of one pass over P2 of two images of 800 x 1333."""
    torch.set_num_threads(1)
    loss = NLKDINLoss(256)
    shape = (2, 256, 200, 336)
    x, y = torch.randn(shape, requires_grad=True), torch.randn(shape)
    loss(x[:1, :, :8, :8], y[:1, :, :8, :8]).backward()
    x.grad = None
    return peak_extra_bytes(lambda: loss(x, y).backward(), "cpu")


@pytest.mark.slow
def test_p2_needs_less_than_two_gigabytes():
    # One matrix of all pairs of positions would be 9 GB.
    extra = in_own_process(_memory_of_p2, "P2")
    assert 4 * 2 * 256 * 200 * 336 < extra < 2e9
