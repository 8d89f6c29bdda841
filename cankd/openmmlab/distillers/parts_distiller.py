"""Distiller for losses that return several named parts."""

from __future__ import annotations

from mmrazor.models.distillers import ConfigurableDistiller
from mmrazor.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class PartsDistiller(ConfigurableDistiller):
    """``ConfigurableDistiller`` that also takes losses which return their parts by name.

    A loss ``loss_fpn0`` that returns ``dict(foreground=..., background=...)`` is logged as
    ``distill.loss_fpn0.foreground`` and ``distill.loss_fpn0.background``; the parts are added up
    like any other losses. mmrazor's own distiller refuses such a loss. Everything else behaves as
    in ``ConfigurableDistiller``.
    """

    def compute_distill_losses(self) -> dict[str, Tensor]:
        """Computes the losses from the records.

        Returns:
            Name -> loss, or ``name.part`` -> part for a loss that consists of parts.
        """
        losses: dict[str, Tensor] = {}
        for name, loss in super().compute_distill_losses().items():
            losses.update(
                {f"{name}.{part}": value for part, value in loss.items()} if isinstance(loss, dict) else {name: loss}
            )
        return losses
