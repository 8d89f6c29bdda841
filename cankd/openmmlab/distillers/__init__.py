"""Distillers that mmrazor lacks."""

from cankd.openmmlab.distillers.parts_distiller import PartsDistiller

__all__ = ["PartsDistiller"]
