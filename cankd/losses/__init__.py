"""Distillation losses, registered in mmrazor's ``MODELS``."""

from cankd.losses.acamkd_loss import ACAMKDLoss
from cankd.losses.feature_mse_loss import FeatureMSELoss
from cankd.losses.fgd_loss import FGDLoss
from cankd.losses.nlkd_in_loss import CanBlock, NLKDINLoss

__all__ = ["ACAMKDLoss", "CanBlock", "FGDLoss", "FeatureMSELoss", "NLKDINLoss"]
