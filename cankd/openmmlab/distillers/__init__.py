"""Distillers that mmrazor lacks."""

from cankd.openmmlab.distillers.level_distiller import (
    Place,
    expand_distiller,
    is_short_form,
    level_distiller,
    long_form,
)
from cankd.openmmlab.distillers.parts_distiller import PartsDistiller

__all__ = ["PartsDistiller", "Place", "expand_distiller", "is_short_form", "level_distiller", "long_form"]
