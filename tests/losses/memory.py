"""Measures the memory that a loss needs, in a process of its own."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Sequence

import torch

from cankd.openmmlab.analysis.benchmark import in_own_process, peak_extra_bytes


def extra_memory(label: str, shape: Sequence[int], kind: type, **arguments: Any) -> int:
    """Returns the bytes that one pass of a loss over two maps needs beside them, for :func:`in_own_process`."""
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
    """Calls :func:`extra_memory` in a process of its own, and checks that the student's gradient is in the result."""
    extra = in_own_process(partial(extra_memory, shape=shape, kind=kind, **arguments), label)
    assert extra > 4 * math.prod(shape), f"{label}: {extra} bytes are too few to be a measurement"
    return extra


# Two images of 800 x 1333.
P2, P3 = (2, 256, 200, 336), (2, 256, 100, 168)
