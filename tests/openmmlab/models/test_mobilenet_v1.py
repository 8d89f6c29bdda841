"""MobileNetV1 against the figures of its paper."""

import pytest
import torch

from cankd.openmmlab.models import MobileNetV1


def test_size_is_the_papers():
    """4.2 million parameters with the classifier of 1,000 classes (Howard et al., Table 8)."""
    parameters = sum(parameter.numel() for parameter in MobileNetV1().parameters())
    assert parameters + 1024 * 1000 + 1000 == 4_231_976


def test_stages_halve_the_resolution():
    model = MobileNetV1(out_indices=range(5))
    model.init_weights()
    maps = model(torch.randn(2, 3, 64, 96))
    assert [tuple(part.shape) for part in maps] == [
        (2, 64, 32, 48), (2, 128, 16, 24), (2, 256, 8, 12), (2, 512, 4, 6), (2, 1024, 2, 3)]  # fmt: skip
    assert all(part.std() > 0 for part in maps)


def test_a_stage_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="expected stages of 0 to 4"):
        MobileNetV1(out_indices=(5,))
