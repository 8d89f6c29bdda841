"""ACAM-KD against its formulas written as loops, and what the paper says of its masks."""

from __future__ import annotations

import math

import pytest
import torch

from cankd import functional
from cankd.losses import ACAMKDLoss
from cankd.losses.acamkd import overlap_ratio, pairwise_dice
from tests.conftest import enliven, relative_error
from tests.losses.memory import P3, memory_in_own_process

VARIANTS = [
    {},
    {"query": "student"},
    {"spatial_masks": False},
    {"channel_masks": False},
    {"channel_masks": False, "spatial_masks": False},
    {"mask_source": "teacher"},
    {"mask_source": "fixed_teacher"},
    {"normalization": "elements"},
    {"normalization": "batch", "distill_weight": 0.5, "diversity_weight": 3.0},
    {"diversity": "pairs"},
    {"num_masks": 1},
    {"attention_channels": 5, "num_masks": 4},
]


def _maps(shape=(2, 4, 3, 5)) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)


def _loss(channels=4, **variant) -> ACAMKDLoss:
    loss = ACAMKDLoss(channels, **variant).double()
    enliven(loss)
    return loss


def _sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def _convolve(convolution, position):
    """A 1x1 convolution of one position's channels, as a list."""
    weight, bias = convolution.weight, convolution.bias
    return [
        bias[out] + sum(weight[out, channel, 0, 0] * position[channel] for channel in range(len(position)))
        for out in range(len(bias))
    ]


def _fuse(loss, asking, asked):
    """The fused positions, from lists of positions."""
    queries, keys, values = (
        [_convolve(convolution, position) for position in side]
        for convolution, side in ((loss.fusion.query, asking), (loss.fusion.key, asked), (loss.fusion.value, asked))
    )
    fused = []
    for query in queries:
        scores = [sum(q * k for q, k in zip(query, key)) / math.sqrt(len(query)) for key in keys]
        shares = [torch.exp(score) for score in scores]
        total = sum(shares)
        fused.append(
            [
                sum(share * value[channel] for share, value in zip(shares, values)) / total
                for channel in range(len(values[0]))
            ]
        )
    return fused


def _divergence(masks, form):
    """The diversity loss of one image's masks."""
    products = [[sum(a * b for a, b in zip(one, other)) for other in masks] for one in masks]
    pairs = [(i, j) for i in range(len(masks)) for j in range(len(masks)) if i != j]
    if form == "pairs":
        dice = [2 * products[i][j] / (products[i][i] + products[j][j]) for i, j in pairs]
        return sum(dice) / max(len(pairs), 1)
    squares = sum(products[i][i] for i in range(len(masks)))
    return 2 * sum(products[i][j] for i, j in pairs) / (squares + squares)


def _by_loops(
    loss, student, teacher, query="teacher", mask_source="fusion", channel_masks=True, spatial_masks=True,
    normalization="weights", diversity="ratio", distill_weight=1.0, diversity_weight=1.0, **_,
):  # fmt: skip
    """ACAM-KD from its formulas, one image, mask, channel and position at a time."""
    parts: dict = {}
    for s_map, t_map in zip(student, teacher):
        channels, positions = len(s_map), s_map[0].numel()
        s, t = ([feature.flatten(1)[:, n] for n in range(positions)] for feature in (s_map, t_map))
        square = [[(t[n][c] - s[n][c]) ** 2 for c in range(channels)] for n in range(positions)]
        fused = t
        if mask_source == "fusion" and (channel_masks or spatial_masks):
            fused = _fuse(loss, t, s) if query == "teacher" else _fuse(loss, s, t)
        masks = {}
        if channel_masks:
            mean = [sum(position[c] for position in fused) / positions for c in range(channels)]
            masks["channel"] = [[_sigmoid(m[0] * mean[c]) for c in range(channels)] for m in loss.channel_selectors]
        if spatial_masks:
            masks["spatial"] = [
                [_sigmoid(sum(m[c] * position[c] for c in range(channels))) for position in fused]
                for m in loss.spatial_selectors
            ]
        image = {}
        for name, kind in masks.items():
            value = 0
            for mask in kind:
                total = weights = 0
                for n in range(positions):
                    for c in range(channels):
                        weight = mask[c] if name == "channel" else mask[n]
                        total, weights = total + weight * square[n][c], weights + weight
                divisor = {"weights": weights, "elements": positions * channels, "batch": 1}[normalization]
                value = value + total / divisor / len(kind)
            image[name] = distill_weight * value
            if mask_source != "fixed_teacher":
                image["diversity"] = image.get("diversity", 0) + diversity_weight * _divergence(kind, diversity)
        if not masks:
            total = sum(value for position in square for value in position)
            image["unmasked"] = distill_weight * total / (1 if normalization == "batch" else positions * channels)
        for name, value in image.items():
            parts[name] = parts.get(name, 0) + value / len(student)
    return parts


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_equals_the_formulas_as_loops(variant):
    loss = _loss(**{"num_masks": 3, **variant})
    student, teacher = _maps()
    results = []
    for compute in (loss, lambda s, t: _by_loops(loss, s, t, **variant)):
        x = student.clone().requires_grad_()
        loss.zero_grad(set_to_none=True)
        parts = compute(x, teacher)
        sum(parts.values()).backward()
        named = [("student", x), *loss.named_parameters()]
        results.append((parts, {name: tensor.grad for name, tensor in named if tensor.grad is not None}))
    (got, got_gradients), (expected, gradients) = results
    assert set(got) == set(expected) and set(got_gradients) == set(gradients)
    for name in expected:
        assert relative_error(got[name], torch.as_tensor(expected[name])) < 1e-10, name
    for name in gradients:
        # The bias of the keys moves all scores of a query alike: its gradient is zero in exact arithmetic.
        floor = gradients["student"].norm().item() if name == "fusion.key.bias" else 1e-10
        assert relative_error(got_gradients[name], gradients[name], floor) < 1e-10, name


def test_instance_norm_is_of_the_maps_that_are_compared():
    student, teacher = _maps()
    plain, normed = (
        _loss(channel_masks=False, spatial_masks=False),
        _loss(channel_masks=False, spatial_masks=False, instance_norm=True),
    )
    expected = plain(*(torch.nn.functional.instance_norm(feature) for feature in (student, teacher)))["unmasked"]
    assert relative_error(normed(student, teacher)["unmasked"], expected) < 1e-10
    # The masks come from the maps as they are.
    masked = _loss(instance_norm=True)
    assert torch.equal(masked(student, teacher)["diversity"], _loss()(student, teacher)["diversity"])


@pytest.mark.parametrize("variant", [{}, {"query": "student", "diversity": "pairs"}], ids=str)
def test_gradcheck(variant):
    loss = _loss(**variant)
    student, teacher = _maps((1, 4, 2, 3))
    inputs = (student.requires_grad_(), *loss.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: tuple(loss(x, teacher).values()), inputs)


def test_the_order_of_positions_and_images_makes_no_difference():
    loss = _loss(8)
    student, teacher = _maps((2, 8, 6, 7))
    expected = loss(student, teacher)
    order = torch.randperm(42)
    shuffled = [feature.flatten(2)[:, :, order].view_as(feature) for feature in (student, teacher)]
    for got in (loss(*shuffled), loss(student.flip(0), teacher.flip(0))):
        assert all(relative_error(got[name], expected[name]) < 1e-10 for name in expected)


def test_a_mask_cannot_lower_the_default_loss_by_shrinking():
    squares = torch.rand(2, 8).double()
    masks = torch.rand(2, 3, 8).double()
    for normalization, equal in (("weights", True), ("elements", False)):
        loss = ACAMKDLoss(4, normalization=normalization)
        same = torch.allclose(loss._weighted(masks, squares, 5), loss._weighted(masks / 10, squares, 5))
        assert same == equal


def test_diversity_counts_overlap():
    one, other = torch.eye(2).double()
    for masks, ratio, dice in (
        ([one, other], 0, 0),
        ([one, one], 1, 1),
        ([one, one, one], 2, 1),
        ([one, 2 * one], 4 / 5, 4 / 5),
        ([one], 0, 0),
    ):
        stacked = torch.stack(masks)[None]
        assert torch.isclose(overlap_ratio(stacked), torch.tensor(ratio).double())
        assert torch.isclose(pairwise_dice(stacked), torch.tensor(dice).double())


@pytest.mark.parametrize("masks", [6, 19])
def test_by_default_equal_masks_have_the_printed_diversity_loss(masks):
    loss = ACAMKDLoss(4, num_masks=masks).double()
    for selectors in (loss.channel_selectors, loss.spatial_selectors):
        assert selectors is not None
        torch.nn.init.constant_(selectors, 0.3)
    # M - 1 for each kind of masks: 5 at M = 6 and 18 at M = 19.
    assert torch.isclose(loss(*_maps())["diversity"], torch.tensor(2.0 * (masks - 1)).double())


def _trained_overlap(diversity_weight):
    """Mean Dice coefficient of both kinds of masks after a training of the loss's own parameters and a student."""
    torch.manual_seed(0)
    loss = ACAMKDLoss(16, diversity_weight=diversity_weight)
    teacher = torch.randn(2, 16, 8, 10)
    student = torch.randn(2, 16, 8, 10).requires_grad_()
    with torch.no_grad():
        start = [pairwise_dice(mask).item() for mask in loss.masks(student, teacher).values()]
    optimizer = torch.optim.SGD([student, *loss.parameters()], lr=0.05, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        sum(loss(student, teacher).values()).backward()
        optimizer.step()
    masks = loss.masks(student, teacher)
    return start, [pairwise_dice(mask).item() for mask in masks.values()]


def test_masks_differ_after_training_and_collapse_without_the_diversity_loss():
    start, diverse = _trained_overlap(diversity_weight=1.0)
    _, collapsed = _trained_overlap(diversity_weight=0.0)
    for kind in range(2):
        assert diverse[kind] < 0.9 * start[kind] < 0.9 < 0.98 < collapsed[kind], kind


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_in_range(dtype, device):
    loss = ACAMKDLoss(8, normalization="batch").to(device)
    # The sum of squares is beyond float16's 65504.
    student, teacher = (torch.randn(2, 8, 30, 40).mul(20).to(device, dtype) for _ in range(2))
    expected = loss(student.float(), teacher.float())
    assert expected["spatial"] > 65504
    with torch.autocast(device, dtype=torch.bfloat16):
        got = loss(student, teacher)
    for name in expected:
        assert got[name].dtype == torch.float32 and relative_error(got[name], expected[name]) < 1e-6, name


def test_the_matrix_of_all_pairs_never_exists(monkeypatch):
    # On torch 2.0.1 by blocks of queries that the backward pass computes again; made small enough to be several here.
    monkeypatch.setattr(functional, "_BLOCK_SCORES", 2**14)
    loss = ACAMKDLoss(8)
    student, teacher = torch.randn(1, 8, 40, 40), torch.randn(1, 8, 40, 40)
    kept: list[int] = []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss(student.requires_grad_(), teacher)
    assert max(kept) <= 2 * student.numel()


@pytest.mark.slow
def test_p3_of_a_full_image_stays_under_a_gigabyte():
    # One matrix of all pairs of positions would be 2.3 GB.
    assert memory_in_own_process("P3", P3, ACAMKDLoss) < 1e9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 0}, "in_channels.*positive integer"),
        ({"num_masks": 0}, "num_masks.*positive integer"),
        ({"attention_channels": 1.5}, "attention_channels.*positive integer"),
        ({"query": "both"}, "query.*teacher, student"),
        ({"mask_source": "student"}, "mask_source.*fusion, teacher"),
        ({"normalization": "sum"}, "normalization.*weights, elements"),
        ({"diversity": "dice"}, "diversity.*ratio, pairs"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ACAMKDLoss(**{"in_channels": 8, **arguments})


def test_bad_maps_are_refused():
    with pytest.raises(ValueError, match="expected equal sizes"):
        ACAMKDLoss(8)(torch.zeros(2, 8, 5, 7), torch.zeros(2, 8, 10, 14))
    with pytest.raises(TypeError, match="got tuple, expected one tensor"):
        ACAMKDLoss(8)((torch.zeros(2, 8, 5, 7),), torch.zeros(2, 8, 5, 7))


@pytest.mark.parametrize("diversity", ["pairs", "ratio"])
def test_masks_that_underflow_keep_their_quotients(diversity):
    underflown, variant = 0, dict(mask_source="teacher", diversity=diversity)
    for seed in range(8):
        torch.manual_seed(seed)
        loss = ACAMKDLoss(4, num_masks=3, **variant)
        # The means of a map that no norm follows.
        student, teacher = torch.randn(2, 4, 3, 5) + 60, torch.randn(2, 4, 3, 5) + 60
        with torch.no_grad():
            underflown += any(bool((mask.sum(2) == 0).any()) for mask in loss.masks(student, teacher).values())
        x = student.requires_grad_()
        got = loss(x, teacher)
        (gradient,) = torch.autograd.grad(torch.stack(list(got.values())).sum(), x)
        wide = student.detach().double().requires_grad_()
        expected = _by_loops(loss.double(), wide, teacher.double(), **variant)
        (wanted,) = torch.autograd.grad(torch.stack(list(expected.values())).sum(), wide)
        for name in expected:
            assert relative_error(got[name], expected[name]) < 1e-3, (seed, name)
        assert relative_error(gradient, wanted) < 1e-3, seed
    assert underflown > 2
