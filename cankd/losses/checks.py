"""Checks of arguments and feature maps that the losses share."""

from __future__ import annotations

from torch import Tensor


def check_positive_int(name: str, value: object) -> None:
    """Checks that an argument is a positive integer.

    Args:
        name: name of the argument.
        value: value of the argument.

    Raises:
        ValueError: if the value is invalid.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}: got {value!r}, expected a positive integer. Change this argument of the loss.")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Checks that an argument is one of its choices.

    Args:
        name: name of the argument.
        value: value of the argument.
        choices: allowed values.

    Raises:
        ValueError: if the value is invalid.
    """
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(choices)}.")


def check_maps(s_feature: Tensor, t_feature: Tensor, in_channels: int) -> None:
    """Checks that two maps are floating point batches of ``in_channels`` channels on one device.

    Args:
        s_feature: the student's map, expected as (B, C, H, W).
        t_feature: the teacher's map, expected as (B, C, any H, any W).
        in_channels: expected number of channels, C.

    Raises:
        TypeError: if a map is not a floating point tensor.
        ValueError: if dimensions, channels, batches or devices do not fit.
    """
    for side, feature in (("student", s_feature), ("teacher", t_feature)):
        if not isinstance(feature, Tensor):
            raise TypeError(
                f"{side} feature: got {type(feature).__name__}, expected one tensor (B, C, H, W). "
                "Pass one level's map; several levels need a loss each."
            )
        if not feature.is_floating_point():
            raise TypeError(
                f"{side} feature: got {feature.dtype}, expected a floating point map. "
                "Pass the output of a layer that computes features."
            )
        shape = tuple(feature.shape)
        if feature.dim() != 4:
            raise ValueError(
                f"{side} feature: got shape {shape}, expected 4 dimensions (B, C, H, W). Pass the output "
                "of a module that returns a map, not a sequence of tokens."
            )
    s_channels, t_channels = s_feature.shape[1], t_feature.shape[1]
    if t_channels != in_channels:
        raise ValueError(
            f"teacher feature: got {t_channels} channels in {tuple(t_feature.shape)}, expected in_channels="
            f"{in_channels}. Set in_channels={t_channels} in the loss"
            f"{'' if s_channels == t_channels else f', and {_widening(s_channels, t_channels)}'}."
        )
    if s_channels != t_channels:
        raise ValueError(
            f"student feature: got {s_channels} channels in {tuple(s_feature.shape)}, expected the teacher's "
            f"{t_channels}. To cure it, {_widening(s_channels, t_channels)}."
        )
    if s_feature.device != t_feature.device:
        raise ValueError(
            f"got the student's map on {s_feature.device} and the teacher's on {t_feature.device}, "
            "expected one device. Move both models to the same one."
        )
    if s_feature.shape[0] != t_feature.shape[0]:
        raise ValueError(
            f"got batch {s_feature.shape[0]} (student) and {t_feature.shape[0]} (teacher), expected the same images on "
            "both sides. Pass the maps of one batch."
        )


def _widening(s_channels: int, t_channels: int) -> str:
    """Returns the advice how a student's map gets the teacher's number of channels."""
    return (
        f"map the student's {s_channels} channels to {t_channels} before the loss, for example with "
        f"torch.nn.Conv2d({s_channels}, {t_channels}, 1)"
    )


def check_equal_sizes(s_feature: Tensor, t_feature: Tensor, remedy: str = "") -> None:
    """Checks that two maps have the same height and width.

    Args:
        s_feature: the student's map, (B, C, H, W).
        t_feature: the teacher's map, expected to have the same H x W.
        remedy: further advice in the error, beside passing other levels. Defaults to none.

    Raises:
        ValueError: if the sizes differ.
    """
    s_size, t_size = tuple(s_feature.shape[2:]), tuple(t_feature.shape[2:])
    if s_size != t_size:
        raise ValueError(
            f"got H x W {s_size} (student) and {t_size} (teacher), expected equal sizes. Pass levels "
            f"of the same stride{remedy}."
        )
