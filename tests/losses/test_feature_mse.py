from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cankd.losses import FeatureMSELoss, NLKDINLoss


def test_is_the_loss_without_its_block():
    x, y = torch.randn(2, 8, 6, 5), torch.randn(2, 8, 6, 5)
    assert torch.allclose(FeatureMSELoss(loss_weight=4)(x, y), 2 * F.mse_loss(x, y))
    for instance_norm in (True, False):
        # CanKD's block adds nothing at its start.
        plain = FeatureMSELoss(instance_norm=instance_norm, loss_weight=3)
        assert torch.allclose(plain(x, y), NLKDINLoss(8, instance_norm=instance_norm, loss_weight=3)(x, y))


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="1x1 convolution"):
        FeatureMSELoss()(torch.zeros(1, 4, 6, 6), torch.zeros(1, 8, 6, 6))
