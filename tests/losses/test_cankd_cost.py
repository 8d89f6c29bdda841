"""What the loss must not cost: graph breaks, memory, second derivatives."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Sequence

import pytest
import torch
import torch._dynamo
from mmengine.utils import digit_version

from cankd.functional import _BOUNDED_ATTENTION
from cankd.losses import NLKDINLoss
from cankd.losses.cankd import AFFINITIES
from cankd.openmmlab.analysis.benchmark import in_own_process, peak_extra_bytes
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


def extra_memory(label: str, shape: Sequence[int], kind: type, **arguments: Any) -> int:
    """Bytes that one pass of a loss over two maps of a shape needs beside them, for :func:`in_own_process`."""
    torch.set_num_threads(1)
    loss = kind(shape[1], **arguments)
    x, y = torch.randn(*shape, requires_grad=True), torch.randn(*shape)

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        value = loss(x, y)
        parts = list(value.values()) if isinstance(value, dict) else [value]
        torch.stack(parts).sum().backward()

    step(x[:1, :, :8, :8], y[:1, :, :8, :8])  # loads the code
    x.grad = None
    return peak_extra_bytes(lambda: step(x, y), "cpu")


def memory_in_own_process(label: str, shape: Sequence[int], kind: type, **arguments: Any) -> int:
    """Like :func:`extra_memory`, in a process of its own, and surely more than the student's gradient."""
    extra = in_own_process(partial(extra_memory, shape=shape, kind=kind, **arguments), label)
    assert extra > 4 * math.prod(shape), f"{label}: {extra} bytes are too few to be a measurement"
    return extra


# Two images of 800 x 1333.
P2, P3 = (2, 256, 200, 336), (2, 256, 100, 168)


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
