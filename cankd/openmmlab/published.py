"""Maps the published names, arguments and checkpoint keys onto those of this package.

Configurations and checkpoints made with the published code (repository tori-hotaru/CanKD) run
unchanged; nothing else in this package knows its names.
"""

from __future__ import annotations

import warnings
from typing import Any, Callable

from mmrazor.registry import MODELS
from torch import nn

import cankd.losses

# Published class name -> the arguments in which it differs from NLKDINLoss's defaults.
PUBLISHED_LOSSES: dict[str, dict[str, Any]] = {
    "NLKD_IN_Loss": {},
    "NLKD_IN_Gaussian_Loss": {"affinity": "gaussian"},
    "NLKD_IN_EBGaussian_Loss": {"affinity": "embedded_gaussian"},
    "NLKD_IN_Concatenation_Loss": {"affinity": "concatenation"},
    "NLKD_woIN_Loss": {"instance_norm": False},
    "NLKD_WOSkip_Loss": {"residual": False},
    "NLKD_IN_align_Loss": {"align": True},
    "NLKD_IN_4x4_Loss": {"pool_size": 4},
    "NLKD_IN_8x8_Loss": {"pool_size": 8},
}

# Published module name inside the loss -> ours. With pooling the published phi and g are
# Sequential(conv, pool), and with a batch norm W is Sequential(conv, norm).
_PREFIX = "non_local_att."
_MODULES = {
    "att.theta.": "theta.",
    "att.phi.0.": "phi.",
    "att.phi.": "phi.",
    "att.concatination.0.": "concat.",
    "g.0.": "g.",
    "g.": "g.",
    "W.0.": "w_z.",
    "W.1.": "bn.",
    "W.": "w_z.",
}


def rename_published_keys(state_dict: dict[str, Any], prefix: str) -> None:
    """Renames the published loss's keys in place.

    Args:
        state_dict: the weights that are about to be loaded; changed in place.
        prefix: key prefix of the loss in it.
    """
    for key in [key for key in state_dict if key.startswith(prefix + _PREFIX)]:
        name = key[len(prefix + _PREFIX) :]
        for published, ours in _MODULES.items():
            if name.startswith(published):
                state_dict[f"{prefix}block.{ours}{name[len(published) :]}"] = state_dict.pop(key)
                break


@MODELS.register_module()
class NLKDINLoss(cankd.losses.NLKDINLoss):
    """:class:`cankd.losses.NLKDINLoss`, which also loads checkpoints that the published code wrote."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # torch's only place for it on all supported releases; the public pre-hook came with torch 2.5.
        rename_published_keys(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _published_loss(name: str, differences: dict[str, Any]) -> Callable[..., nn.Module]:
    """Returns what the registry calls to build the published class ``name``."""

    def build(
        in_channels: int,
        inter_channels: int | None = None,
        loss_weight: float = 1.0,
        sub_sample: bool = True,
        bn_layer: bool = True,
        dimension: int = 2,
        tau: float | None = None,
    ) -> nn.Module:
        if dimension != 2:
            raise ValueError(f"{name}: got dimension={dimension!r}, expected 2 (maps). Leave the argument out.")
        if tau is not None:
            warnings.warn(f"{name}: tau={tau} has no effect, as in the published code. Leave it out.", stacklevel=2)
        return NLKDINLoss(
            in_channels,
            inter_channels,
            batch_norm=bn_layer,
            loss_weight=loss_weight,
            **{"pool_size": 2, **differences, **({} if sub_sample else {"pool_size": 1})},
        )

    return build


for _name, _differences in PUBLISHED_LOSSES.items():
    # force: an mmrazor that holds the authors' own classes is served by ours all the same.
    MODELS.register_module(name=_name, module=_published_loss(_name, _differences), force=True)
