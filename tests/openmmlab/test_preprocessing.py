"""The teacher's images made from the student's, against the teacher's own data preprocessor on the same pixels."""

from __future__ import annotations

import copy
import importlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmdet.models.data_preprocessors import DetDataPreprocessor, TrackDataPreprocessor
from mmengine.model import BaseDataPreprocessor, ImgDataPreprocessor
from mmengine.structures import BaseDataElement
from mmseg.models import SegDataPreProcessor

from cankd.openmmlab.compat import CLASSIFICATION
from cankd.openmmlab.preprocessing import TeacherImages, crop_maps

ClsDataPreprocessor = importlib.import_module(f"{CLASSIFICATION}.models.utils").ClsDataPreprocessor

RGB: dict[str, Any] = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
# As in the stock configurations, with a common divisor.
PREPROCESSORS: dict[str, Any] = {
    "torchvision": lambda: DetDataPreprocessor(**RGB, bgr_to_rgb=True, pad_size_divisor=32),
    "caffe": lambda: DetDataPreprocessor(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], pad_size_divisor=32),
    "YOLOX": lambda: DetDataPreprocessor(pad_size_divisor=32, pad_value=114),
    "RTMDet": lambda: DetDataPreprocessor(
        mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395], pad_size_divisor=32, pad_value=0.5
    ),
    "segmentation": lambda: SegDataPreProcessor(**RGB, bgr_to_rgb=True, pad_val=-1, size_divisor=32),
    "classification": lambda: ClsDataPreprocessor(**RGB, to_rgb=True, pad_size_divisor=32),
    "one mean": lambda: ImgDataPreprocessor(mean=[127.5], std=[127.5], pad_size_divisor=32),
}
SIZES = ((37, 53), (61, 40))


def _data(sizes=SIZES):
    """Images of several odd sizes, with the extremes of the pixels' range in each channel."""
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]
    for image in images:
        image[:, 0, 0], image[:, 0, 1] = 0, 255
    return {"inputs": images, "data_samples": [BaseDataElement(metainfo=dict(img_shape=size)) for size in sizes]}


def _both(student, teacher, data):
    """What is made of the student's batch, and the teacher's own batch."""
    batch, expected = (part(copy.deepcopy(data), True) for part in (student, teacher))
    images, samples = TeacherImages(student, teacher)(batch["inputs"], batch["data_samples"])
    return images, samples, batch, expected["inputs"]


def _error(images, expected):
    """Largest difference, as a part of the range of the values."""
    return ((images - expected).abs().max() / (expected.max() - expected.min())).item()


@pytest.mark.parametrize("teacher", PREPROCESSORS)
@pytest.mark.parametrize("student", PREPROCESSORS)
def test_equals_the_teachers_own_preprocessor(student, teacher):
    images, samples, batch, expected = _both(PREPROCESSORS[student](), PREPROCESSORS[teacher](), _data())
    assert images.shape == expected.shape == (2, 3, 64, 64) and images.dtype == torch.float32
    assert _error(images, expected) < 1e-5
    for index, (rows, columns) in enumerate(SIZES):  # the padding is exact
        assert torch.equal(images[index, :, rows:], expected[index, :, rows:])
        assert torch.equal(images[index, :, :, columns:], expected[index, :, :, columns:])
    assert samples is batch["data_samples"]
    if student == teacher:
        assert images is batch["inputs"]
    else:
        assert torch.equal(batch["inputs"], PREPROCESSORS[student]()(_data_again(), True)["inputs"])  # left as it was


def _data_again():
    torch.manual_seed(0)
    return _data()


def test_another_padding_value_alone_costs_a_copy_where_there_is_padding():
    student, teacher = (DetDataPreprocessor(**RGB, pad_value=value) for value in (0, 7))
    images, _, batch, expected = _both(student, teacher, _data())
    assert torch.equal(images, expected) and images is not batch["inputs"]
    images, _, batch, _ = _both(student, teacher, _data([(32, 48)] * 2))
    assert images is batch["inputs"]


@pytest.mark.parametrize("name", PREPROCESSORS)
def test_a_larger_divisor_pads_further(name):
    """Under a student that pads to the largest image only."""
    teacher = PREPROCESSORS[name]()
    for student in (DetDataPreprocessor(), PREPROCESSORS["torchvision"]()):
        student.pad_size_divisor = 1
        images, samples, batch, expected = _both(student, teacher, _data())
        assert batch["inputs"].shape == (2, 3, 61, 53) and images.shape == expected.shape == (2, 3, 64, 64)
        assert _error(images, expected) < 1e-5
        assert [sample.batch_input_shape for sample in samples] == [(64, 64)] * 2
        assert [sample.batch_input_shape for sample in batch["data_samples"]] == [(61, 53)] * 2
        assert [tuple(sample.img_shape) for sample in samples] == list(SIZES)


def test_a_larger_extent_of_the_student_stays():
    student, teacher = DetDataPreprocessor(pad_size_divisor=64), DetDataPreprocessor(**RGB, pad_value=3)
    images, _, batch, expected = _both(student, teacher, _data([(37, 53)]))
    assert images.shape == batch["inputs"].shape == (1, 3, 64, 64)
    assert _error(images[:, :, :37, :53], expected) < 1e-5
    assert (images[:, :, 37:] == 3).all() and (images[:, :, :, 53:] == 3).all()


def test_a_segmenters_fixed_size_holds_for_the_teacher():
    student = SegDataPreProcessor(**RGB, bgr_to_rgb=True, size=(80, 70))
    teacher = SegDataPreProcessor(mean=[0.0] * 3, std=[255.0] * 3, size=(96, 96), pad_val=5)
    images, _, _, _ = _both(student, teacher, _data())
    assert images.shape == (2, 3, 80, 70) and (images[0, :, 37:] == 5).all()
    expected = teacher(_data_again(), True)["inputs"]
    assert _error(images, expected[:, :, :80, :70]) < 1e-5


def test_a_resized_batch_is_the_teachers_resized_batch():
    student, teacher = PREPROCESSORS["RTMDet"](), PREPROCESSORS["torchvision"]()
    data = _data([(64, 64)] * 2)
    batch, expected = (
        F.interpolate(part(copy.deepcopy(data), True)["inputs"], size=(96, 96), mode="bilinear", align_corners=False)
        for part in (student, teacher)
    )
    samples = [BaseDataElement(metainfo=dict(img_shape=(96, 96)))] * 2
    assert _error(TeacherImages(student, teacher)(batch, samples)[0], expected) < 1e-5


@pytest.mark.parametrize("samples", [None, [BaseDataElement()] * 2], ids=["no samples", "no sizes"])
def test_without_sizes_every_pixel_is_the_images(samples):
    student, teacher = PREPROCESSORS["YOLOX"](), PREPROCESSORS["torchvision"]()
    batch, expected = (part(_data_again(), True)["inputs"] for part in (student, teacher))
    images, _ = TeacherImages(student, teacher)(batch, samples)
    assert _error(images[0, :, :37, :53], expected[0, :, :37, :53]) < 1e-5


def test_mixed_precision():
    student, teacher = PREPROCESSORS["RTMDet"](), PREPROCESSORS["torchvision"]()
    batch, expected = student(_data_again(), True), teacher(_data_again(), True)["inputs"]
    images = TeacherImages(student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wide, _ = images(batch["inputs"], batch["data_samples"])
    assert wide.dtype == torch.float32 and _error(wide, expected) < 1e-5
    for dtype in (torch.bfloat16, torch.float16):
        narrow, _ = images(batch["inputs"].to(dtype), batch["data_samples"])
        # The rounding of the student's values, of up to 2.7, and that of the result.
        assert narrow.dtype == dtype and _error(narrow.float(), expected) < 2 * torch.finfo(dtype).eps


def test_nothing_of_it_is_in_a_checkpoint():
    assert not TeacherImages(PREPROCESSORS["YOLOX"](), PREPROCESSORS["RTMDet"]()).state_dict()


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (DetDataPreprocessor(), BaseDataPreprocessor(), "got no data_preprocessor of the teacher, expected one of Img"),
        (BaseDataPreprocessor(), DetDataPreprocessor(), "got no data_preprocessor of the student"),
        (
            DetDataPreprocessor(),
            TrackDataPreprocessor(),
            "got a TrackDataPreprocessor as data_preprocessor of the",
        ),
    ],
)
def test_what_is_not_understood_is_one_line(student, teacher, message):
    with pytest.raises(ValueError, match=message) as error:
        TeacherImages(student, teacher)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("stride", [4, 8, 32, 64])
@pytest.mark.parametrize("size", [(61, 53), (100, 33), (64, 96), (1, 127)])
def test_cropped_maps_have_the_students_size(size, stride):
    """A chain of convolutions of stride 2 rounds up, whatever the size."""
    padded = tuple(-(-extent // 64) * 64 for extent in size)

    def maps(extents):
        images = torch.zeros(1, 1, *extents)
        for _ in range(stride.bit_length() - 1):
            images = F.conv2d(images, torch.ones(1, 1, 3, 3), stride=2, padding=1)
        return images

    inputs, images = torch.zeros(1, 3, *size), torch.zeros(1, 3, *padded)
    tokens = torch.zeros(1, 7, 5)
    cropped = crop_maps([(maps(padded), tokens), {"map": maps(padded)}], images, inputs)
    assert cropped[0][0].shape == cropped[1]["map"].shape == maps(size).shape and cropped[0][1] is tokens
