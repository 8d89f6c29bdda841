"""Models that configurations name: stock models with differences."""

from cankd.models.stock import stock_model

__all__ = ["stock_model"]
