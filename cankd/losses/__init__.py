"""Distillation losses as plain ``torch.nn.Module`` classes; each maps ``(s_feature, t_feature)`` to the loss."""

from cankd.losses.acamkd import ACAMKDLoss
from cankd.losses.cankd import CanBlock, NLKDINLoss
from cankd.losses.feature_mse import FeatureMSELoss
from cankd.losses.fgd import FGDLoss

__all__ = ["ACAMKDLoss", "CanBlock", "FGDLoss", "FeatureMSELoss", "NLKDINLoss"]
