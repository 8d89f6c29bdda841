"""Distillation losses, registered in mmrazor's ``MODELS``."""

from cankd.losses.feature_mse_loss import FeatureMSELoss
from cankd.losses.nlkd_in_loss import CanBlock, NLKDINLoss

__all__ = ["CanBlock", "FeatureMSELoss", "NLKDINLoss"]
