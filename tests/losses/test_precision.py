"""Every loss in every precision on the device, in a step with a gradient scaler, against float64 on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch

from cankd.losses import ACAMKDLoss, FeatureMSELoss, FGDLoss, NLKDINLoss
from cankd.openmmlab.analysis.benchmark_loss import DTYPES, precision
from tests.conftest import enliven, relative_error

BOXES = torch.tensor([[[4.0, 8.0, 60.0, 40.0], [30.0, 30.0, 112.0, 80.0]], [[0, 0, 16, 16], [8, 8, 24, 33]]])
LOSSES: dict = {
    "CanKD": lambda: NLKDINLoss(16, loss_weight=3.0),
    "ACAM-KD": lambda: ACAMKDLoss(16),
    "FGD": lambda: FGDLoss(16),
    "L2": FeatureMSELoss,
    "instance norm + L2": lambda: FeatureMSELoss(instance_norm=True),
}
# Releases before 2.4 have no float16 autocast on CPUs.
KINDS = [kind for kind in DTYPES if kind not in ("float64", "float16")] + ["float16"] * hasattr(torch.amp, "GradScaler")


def _step(loss, student, teacher, kind, device):
    """The values of a loss and the gradients of a step, which ``student``, in the loss's type, is a leaf of."""
    maps = student.to(DTYPES[kind][0]), teacher.to(device, DTYPES[kind][0])
    more = ([boxes.to(device) for boxes in BOXES], [(80, 112)] * 2) if isinstance(loss, FGDLoss) else ()
    with precision(kind, device):
        parts = loss(*maps, *more)
    parts = parts if isinstance(parts, dict) else {"loss": parts}
    total = torch.stack(list(parts.values())).sum()
    leaves = {"student": student, **dict(loss.named_parameters())}
    optimizer = torch.optim.SGD(leaves.values(), lr=0.1)
    if kind == "float16":
        scaler = torch.amp.GradScaler(device)
        scaler.scale(total).backward()
        scaler.unscale_(optimizer)
    else:
        total.backward()
    return parts, {name: leaf.grad for name, leaf in leaves.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOSSES)
def test_equals_float64_on_the_cpu(name, kind, device):
    narrow = LOSSES[name]()
    enliven(narrow)
    wide = copy.deepcopy(narrow).double()
    narrow.to(device)
    # Both get the same rounded maps.
    student, teacher = (torch.randn(2, 16, 10, 14).to(DTYPES[kind][0]).float() for _ in range(2))
    got, gradients = _step(narrow, student.to(device).detach().requires_grad_(), teacher, kind, device)
    expected, wanted = _step(wide, student.double().requires_grad_(), teacher, "float64", "cpu")
    tolerance = DTYPES[kind][2]
    for part in expected:
        assert got[part].dtype == torch.float32 and relative_error(got[part], expected[part]) < tolerance, part
    # Gradients that are zero in exact arithmetic are compared in absolute terms.
    largest = max(gradient.norm().item() for gradient in wanted.values())
    for leaf, gradient in wanted.items():
        floor = largest if leaf.endswith("bias") else 0.1 * largest
        assert gradients[leaf].isfinite().all() and relative_error(gradients[leaf], gradient, floor) < tolerance, leaf
