from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from mmrazor.registry import MODELS

from cankd.openmmlab.published import PUBLISHED_LOSSES, rename_published_keys
from tests.conftest import GOLDEN, ROOT, TOLERANCE, relative_error

CASES = json.loads((GOLDEN / "index.json").read_text())


def _part(case, prefix):
    with np.load(GOLDEN / case["file"]) as values:
        return {k[len(prefix) :]: torch.from_numpy(values[k].copy()) for k in values.files if k.startswith(prefix)}


@pytest.mark.parametrize("case", CASES, ids=[case["file"] for case in CASES])
def test_reproduces_the_published_losses(case):
    loss = MODELS.build(dict(type=case["upstream_class"], **case["kwargs"])).double()
    loss.load_state_dict(_part(case, "state/"), strict=True)
    maps = _part(case, "")
    student = maps["student"].requires_grad_()
    value = loss(student, maps["teacher"])
    value.backward()

    tolerance = TOLERANCE[torch.float64]
    assert abs(value.item() / case["loss"] - 1) < tolerance
    assert relative_error(student.grad, maps["grad_student"]) < tolerance
    gradients, after = _part(case, "grad/"), _part(case, "after/")
    assert gradients and after
    for part in (gradients, after):
        rename_published_keys(part, "")
    for name, parameter in loss.named_parameters():
        # floor 1: gradients that are zero in exact arithmetic are compared in absolute terms
        assert relative_error(parameter.grad, gradients.pop(name), floor=1) < tolerance, name
    assert not gradients
    for name, value in after.items():
        assert relative_error(loss.state_dict()[name], value) < tolerance, name


def test_every_published_class_is_covered():
    recorded = {case["upstream_class"] for case in CASES}
    assert set(PUBLISHED_LOSSES) - recorded == {f"NLKD_IN_{size}x{size}_Loss" for size in (4, 8)}
    assert recorded < set(PUBLISHED_LOSSES)


@pytest.mark.parametrize("size", [4, 8])
def test_published_pool_sizes_are_the_argument(size):
    published = MODELS.build(dict(type=f"NLKD_IN_{size}x{size}_Loss", in_channels=8, dimension=2, loss_weight=10))
    assert published.block.pool_size == size
    assert MODELS.build(dict(type=f"NLKD_IN_{size}x{size}_Loss", in_channels=8, sub_sample=False)).block.pool_size == 1


def test_published_arguments():
    loss = MODELS.build(dict(type="NLKD_IN_Loss", in_channels=8, sub_sample=False, bn_layer=False))
    assert loss.block.pool_size == 1 and loss.block.bn is None
    keys = {"non_local_att.att.theta.weight": "block.theta.weight", "non_local_att.att.phi.bias": "block.phi.bias"}
    keys.update({"non_local_att.g.weight": "block.g.weight", "non_local_att.W.bias": "block.w_z.bias"})
    state = {key: torch.zeros(1) for key in keys}
    rename_published_keys(state, "")
    assert list(state) == list(keys.values())


def test_tau_is_reported_as_without_effect():
    with pytest.warns(UserWarning, match="tau=0.5 has no effect"):
        MODELS.build(dict(type="NLKD_IN_Loss", in_channels=8, tau=0.5))


@pytest.mark.parametrize("dimension", [1, 3])
def test_other_dimensions_are_refused(dimension):
    with pytest.raises(ValueError, match="expected 2"):
        MODELS.build(dict(type="NLKD_IN_Loss", in_channels=8, dimension=dimension))


def test_what_the_published_names_are_called_here_exists():
    lines = (ROOT / "docs" / "published.md").read_text(encoding="utf-8").splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| `")]
    here = {name for row in rows for name in re.findall(r"`((?:tools|configs|cankd)/[\w./*-]+)", row[-1])}
    assert len(rows) > 20 and len(here) > 10
    for name in here:
        assert any(ROOT.glob(name)), name
