"""FGD against the values of the published loss, and what must hold for any maps."""

from __future__ import annotations

import math
from functools import partial

import mmcv.cnn
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from cankd.losses.fgd import ContextBlock, attention, foreground_mask
from cankd.openmmlab.losses import FGDLoss
from tests.conftest import GOLDEN, enliven, relative_error

PARTS = ["foreground", "background", "attention", "global"]


def _samples(boxes, img_shape, **metainfo) -> list[DetDataSample]:
    samples = []
    for image_boxes in boxes:
        sample = DetDataSample(metainfo=dict(img_shape=tuple(img_shape), **metainfo))
        sample.gt_instances = InstanceData(bboxes=image_boxes)
        samples.append(sample)
    return samples


def _pair(shape=(2, 8, 10, 14), dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)


BOXES = torch.tensor(
    [[[4.0, 8.0, 60.0, 40.0], [30.0, 30.0, 112.0, 80.0]], [[0.0, 0.0, 16.0, 16.0], [8.0, 8.0, 24, 33]]]
)


@pytest.mark.parametrize("file", ["fgd_0.npz", "fgd_1.npz"])
def test_equals_the_published_loss(file):
    golden = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / file).items()}
    loss = FGDLoss(golden["student"].shape[1]).double()
    state = {}
    for key, value in golden.items():
        if key.startswith("state/"):
            # Published: conv_mask_s and channel_add_conv_s, and the same with _t.
            module, rest = key[len("state/") :].split(".", 1)
            state[f"{module[-1]}_context.{module[:-2]}.{rest}"] = value
    loss.load_state_dict(state)
    student = golden["student"].requires_grad_()
    # The published code keeps 1 / area in float32; float32 boxes do the same here.
    parts = loss(student, golden["teacher"], _samples(golden["boxes"].float(), golden["img_shape"].tolist()))
    assert list(parts) == PARTS
    total = sum(parts.values())
    total.backward()
    assert student.grad is not None and relative_error(total, golden["loss"]) < 1e-12
    assert relative_error(student.grad, golden["grad_student"]) < 1e-12


def _cells(boxes, frame, size):
    """The foreground mask, cell by cell."""
    mask = torch.zeros(size, dtype=torch.float64)
    for left, top, right, bottom in boxes.tolist():
        columns = range(math.floor(left / frame[1] * size[1]), math.ceil(right / frame[1] * size[1]) + 1)
        rows = range(math.floor(top / frame[0] * size[0]), math.ceil(bottom / frame[0] * size[0]) + 1)
        for row in rows:
            for column in columns:
                if row < size[0] and column < size[1]:
                    mask[row, column] = max(mask[row, column].item(), 1 / (len(rows) * len(columns)))
    return mask


def test_foreground_mask_cell_by_cell():
    for boxes in (*BOXES.double(), BOXES[0, :0].double()):
        assert torch.equal(foreground_mask(boxes, (80, 112), (10, 14)), _cells(boxes, (80, 112), (10, 14)))
        assert torch.equal(foreground_mask(boxes, (83, 117), (9, 13)), _cells(boxes, (83, 117), (9, 13)))


def test_attention_sums_to_the_number_of_what_it_weighs():
    student, _ = _pair()
    for temperature in (0.5, 0.01):
        spatial, channel = attention(student, temperature)
        assert torch.allclose(spatial.sum((1, 2)), torch.tensor(140.0).double())
        assert torch.allclose(channel.sum(1), torch.tensor(8.0).double())


def test_the_order_of_boxes_images_and_channels_makes_no_difference():
    loss = FGDLoss(8, global_weight=0).double()
    student, teacher = _pair()
    expected = loss(student, teacher, _samples(BOXES, (80, 112)))
    channels = torch.randperm(8)
    for got in (
        loss(student, teacher, _samples(BOXES.flip(1), (80, 112))),
        loss(student.flip(0), teacher.flip(0), _samples(BOXES.flip(0), (80, 112))),
        loss(student[:, channels], teacher[:, channels], _samples(BOXES, (80, 112))),
    ):
        for name in PARTS:
            assert relative_error(got[name], expected[name]) < 1e-10, name


def test_equal_maps_cost_nothing_until_the_contexts_differ():
    loss = FGDLoss(8).double()
    student, _ = _pair()
    samples = _samples(BOXES, (80, 112))
    # As published, the context blocks start as the identity.
    assert all(part == 0 for part in loss(student, student, samples).values())
    enliven(loss)
    parts = loss(student, student, samples)
    assert parts["global"] > 0 and all(parts[name] == 0 for name in PARTS[:3])


def test_without_boxes_everything_is_background():
    student, teacher = _pair()
    parts = FGDLoss(8).double()(student, teacher, _samples(BOXES[:, :0], (80, 112)))
    assert parts["foreground"] == 0 and parts["background"] > 0


def test_box_frame_says_what_the_map_covers():
    student, teacher = _pair()
    padded = _samples(BOXES, (80, 100), batch_input_shape=(80, 112))
    expected = FGDLoss(8).double()(student, teacher, _samples(BOXES, (80, 112)))
    got = FGDLoss(8, box_frame="batch_input_shape").double()(student, teacher, padded)
    assert got["foreground"] == expected["foreground"]
    assert FGDLoss(8).double()(student, teacher, padded)["foreground"] != expected["foreground"]


def test_gradients_reach_the_student_and_the_contexts():
    loss = FGDLoss(8).double()
    enliven(loss)
    student, teacher = _pair()
    samples = _samples(BOXES, (80, 112))
    assert torch.autograd.gradcheck(
        lambda x: sum(loss(x, teacher[:, :, :4, :5], samples).values()), student[:, :, :4, :5].requires_grad_()
    )
    loss(student, teacher, samples)["global"].backward()
    assert all(parameter.grad is not None for parameter in loss.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_in_range(dtype, device):
    loss = FGDLoss(8, foreground_weight=1, background_weight=1, attention_weight=1, global_weight=1).to(device)
    student, teacher = _pair((2, 8, 40, 56), torch.float32)
    # Beyond float16's 65504 when the squares are summed.
    student, teacher = (feature.to(device) * 100 for feature in (student, teacher))
    samples = _samples(BOXES.to(device), (80, 112))
    expected = loss(student.to(dtype).float(), teacher.to(dtype).float(), samples)
    with torch.autocast(device, dtype=torch.bfloat16):
        got = loss(student.to(dtype), teacher.to(dtype), samples)
    for name in PARTS:
        assert got[name].dtype == torch.float32
        assert relative_error(got[name], expected[name]) < 1e-6, name


def test_memory_layout_makes_no_difference():
    loss = FGDLoss(8).double()
    student, teacher = _pair()
    samples = _samples(BOXES, (80, 112))
    expected = loss(student, teacher, samples)
    got = loss(*(part.contiguous(memory_format=torch.channels_last) for part in (student, teacher)), samples)
    assert all(relative_error(got[name], expected[name]) < 1e-10 for name in PARTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 0}, "positive integer"),
        ({"temperature": 0}, "positive number"),
        ({"box_frame": "pad_shape"}, "img_shape, batch_input_shape"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FGDLoss(**{"in_channels": 8, **arguments})


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (_samples(BOXES[:1], (80, 112)), "length 1, expected .* 2 images.*ModuleInputs"),
        ([DetDataSample(), DetDataSample()], "gt_instances.*Segmenters have no boxes"),
    ],
    ids=["too few", "no boxes"],
)
def test_bad_data_samples_are_refused(samples, message):
    with pytest.raises(ValueError, match=message):
        FGDLoss(8)(*_pair(), samples)


def test_bad_maps_are_refused():
    with pytest.raises(ValueError, match="expected in_channels=8"):
        FGDLoss(8)(*_pair((2, 4, 10, 14)), _samples(BOXES, (80, 112)))
    with pytest.raises(ValueError, match="expected equal sizes"):
        FGDLoss(8)(torch.zeros(2, 8, 5, 7), torch.zeros(2, 8, 10, 14), _samples(BOXES, (80, 112)))


def test_the_context_block_is_mmcvs():
    blocks = []
    for make in (ContextBlock, partial(mmcv.cnn.ContextBlock, ratio=1 / 2)):
        torch.manual_seed(3)
        blocks.append(make(8))
    ours, theirs = blocks
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())
    enliven(ours)
    theirs.load_state_dict(ours.state_dict())
    feature = torch.randn(2, 8, 10, 14)
    assert relative_error(ours(feature), theirs(feature)) < 1e-6
