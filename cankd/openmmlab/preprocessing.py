"""Gives a teacher the images of a student's batch as the teacher's own data preprocessor would make them.

A data preprocessor maps pixels p to (p - mean) / std, perhaps with the order of the channels reversed, and then pads
the images of a batch to one size. So the same pixels under another preprocessor follow from the batch by an affine
map of each channel, with m and s the student's mean and std and m' and s' the teacher's:

    teacher's value = student's value * s / s' + (m - m') / s'
"""

from __future__ import annotations

from typing import Any, Sequence

import torch
import torch.nn.functional as F
from mmengine.utils import apply_to
from torch import Tensor, nn

from cankd.openmmlab.compat import RGB_FLAGS

# The data preprocessors whose `forward` is the arithmetic above. BoxInst's makes masks besides.
UNDERSTOOD = (
    *("ImgDataPreprocessor", "DetDataPreprocessor", "BoxInstDataPreprocessor"),
    *("SegDataPreProcessor", "ClsDataPreprocessor"),
)


def reverses_channels(preprocessor: Any) -> bool:
    """Returns whether a data preprocessor turns BGR into RGB or the reverse."""
    return any(getattr(preprocessor, flag, False) for flag in RGB_FLAGS)


def _pad_value(preprocessor: Any) -> float:
    return preprocessor.pad_value if hasattr(preprocessor, "pad_value") else preprocessor.pad_val


def _divisor(preprocessor: Any) -> int:
    return getattr(preprocessor, "pad_size_divisor", None) or getattr(preprocessor, "size_divisor", None) or 1


def _mean_and_std(preprocessor: nn.Module) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation, (3 or 1, 1, 1) in float64: 0 and 1 if images are not normalised."""
    mean, std = getattr(preprocessor, "mean", torch.zeros(1, 1, 1)), getattr(preprocessor, "std", torch.ones(1, 1, 1))
    return mean.double(), std.double()


def _check(preprocessor: Any, side: str) -> None:
    """Refuses a data preprocessor that does something else than those of :data:`UNDERSTOOD`."""
    kind = next(cls.__name__ for cls in type(preprocessor).__mro__ if "forward" in vars(cls))
    if kind not in UNDERSTOOD:
        got = "no data_preprocessor" if kind == "BaseDataPreprocessor" else f"a {kind} as data_preprocessor"
        raise ValueError(
            f"teacher_preprocess: got {got} of the {side}, expected one of {', '.join(UNDERSTOOD)}. Give the {side} "
            "one of these in its configuration, or leave teacher_preprocess out: then the teacher sees the student's "
            "images."
        )


class TeacherImages(nn.Module):
    """Maps a batch of the student's preprocessed images to what the teacher's own data preprocessor makes of them.

    The interior of each image is mapped channel by channel, its padding gets the teacher's padding value, and a batch
    whose size is no multiple of the teacher's divisor is padded further at the bottom and at the right. Images are what
    left the student's preprocessor, so that its batch augmentations, the fixed size of a segmenter's batch
    included, hold for both models; the teacher's own are not applied.

    Nothing of it is saved in a checkpoint.

    Args:
        student: data preprocessor of the batch.
        teacher: data preprocessor of the teacher.

    Raises:
        ValueError: for a data preprocessor that is none of :data:`UNDERSTOOD`.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        for side, preprocessor in (("student", student), ("teacher", teacher)):
            _check(preprocessor, side)
        (s_mean, s_std), (t_mean, t_std) = _mean_and_std(student), _mean_and_std(teacher)
        self.reversed = reverses_channels(student) != reverses_channels(teacher)
        if self.reversed:
            s_mean, s_std = s_mean.flip(0), s_std.flip(0)
        scale, offset = s_std / t_std, (s_mean - t_mean) / t_std
        self.normalised_alike = bool(not self.reversed and (scale == 1).all() and (offset == 0).all())
        self.padded_alike = self.normalised_alike and _pad_value(student) == _pad_value(teacher)
        self.pad_value = _pad_value(teacher)
        self.divisor = _divisor(teacher)
        self.register_buffer("scale", scale.float(), persistent=False)
        self.register_buffer("offset", offset.float(), persistent=False)

    def forward(self, inputs: Tensor, data_samples: Sequence[Any] | None = None) -> tuple[Tensor, Sequence[Any] | None]:
        """Returns the teacher's batch.

        Args:
            inputs: images from the student's data preprocessor, (B, C, H, W).
            data_samples: annotations of the images; an image without ``img_shape`` counts as having no padding.

        Returns:
            Images of the teacher, (B, C, H', W') with H' >= H and W' >= W, and their data samples. Where nothing
            differs, these are the very objects that came in.
        """
        images = inputs
        if not self.normalised_alike:
            images = images.flip(1) if self.reversed else images
            images = torch.addcmul(self.offset, images.float(), self.scale).to(inputs.dtype)
        if not self.padded_alike:
            images = self._padding_replaced(images, inputs, data_samples or ())
        below, right = (-extent % self.divisor for extent in inputs.shape[2:])
        if below or right:
            images = F.pad(images, (0, right, 0, below), value=self.pad_value)
            data_samples = data_samples and [_with_batch_shape(sample, images) for sample in data_samples]
        return images, data_samples

    def _padding_replaced(self, images: Tensor, inputs: Tensor, data_samples: Sequence[Any]) -> Tensor:
        """Gives the padding of each image the teacher's value, in a copy if the images are the student's own."""
        height, width = inputs.shape[2:]
        for index, sample in enumerate(data_samples):
            rows, columns = sample.metainfo.get("img_shape", (height, width))[:2]
            if rows < height or columns < width:
                images = images.clone() if images is inputs else images
                images[index, :, rows:] = self.pad_value
                images[index, :, :, columns:] = self.pad_value
        return images


def normalise_differently(student: nn.Module, teacher: nn.Module) -> bool:
    """Returns whether two data preprocessors are known to normalise the same pixels to different values."""
    try:
        return not TeacherImages(student, teacher).normalised_alike
    except ValueError:
        return False


def _with_batch_shape(sample: Any, images: Tensor) -> Any:
    """Returns a copy of a data sample that has the size of the teacher's batch, from which DETRs make their masks."""
    return sample.new(metainfo={**sample.metainfo, "batch_input_shape": tuple(images.shape[2:])})


def crop_map(feature: Tensor, images: Sequence[int], inputs: Sequence[int]) -> Tensor:
    """Crops a map of the teacher's images to the extent of the student's.

    A map of the padded size H' has ceil(H / H' * its height) rows of the student's size H: as many as a model of the
    same stride makes of the student's batch.

    Args:
        feature: map, (B, C, H, W).
        images: height and width of the teacher's images.
        inputs: height and width of the student's images.

    Returns:
        The map, cropped at the bottom and at the right.
    """
    rows, columns = (-(-extent * own // whole) for extent, own, whole in zip(feature.shape[2:], inputs, images))
    return feature[:, :, :rows, :columns]


def crop_maps(record: Any, images: Tensor, inputs: Tensor) -> Any:
    """Crops all maps in a record, see :func:`crop_map`.

    Args:
        record: a map (B, C, H, W), or maps in lists, tuples and dicts; any other value, like tokens (B, N, C), stays
            as it is.
        images: images of the teacher, (B, C, H', W').
        inputs: images of the student, (B, C, H, W).

    Returns:
        The record, cropped.
    """
    sizes = images.shape[2:], inputs.shape[2:]
    return apply_to(
        record, lambda value: isinstance(value, Tensor) and value.dim() == 4, lambda value: crop_map(value, *sizes)
    )
