"""Builds stock models with differences, and adds a backbone that the libraries lack."""

from cankd.openmmlab.models.mobilenet_v1 import MobileNetV1
from cankd.openmmlab.models.stock import merge_differences, stock_config, stock_model

__all__ = ["MobileNetV1", "merge_differences", "stock_config", "stock_model"]
