from __future__ import annotations

import pytest
import torch
from mmengine.utils import digit_version

from cankd import functional
from cankd.losses import NLKDINLoss
from cankd.losses.cankd import AFFINITIES
from cankd.losses.cankd_naive import NaiveNLKDINLoss
from tests.conftest import TOLERANCE, enliven, needs_bfloat16, relative_error

# Odd sizes, batch 1, and maps of 2 and 3 positions a side.
SHAPES = [(2, 8, 10, 14), (1, 6, 7, 9), (3, 4, 5, 4), (2, 8, 2, 3), (1, 4, 3, 2), (2, 6, 2, 2)]
VARIANTS = [
    {},
    {"affinity": "gaussian"},
    {"affinity": "embedded_gaussian"},
    {"affinity": "concatenation"},
    {"pool_size": 1},
    {"residual": False},
    {"instance_norm": False},
    {"batch_norm": False},
    {"inter_channels": 3},
    {"inter_channels": 9, "affinity": "gaussian"},
    {"affinity": "gaussian", "batch_norm": False},
    {"inter_channels": 5, "affinity": "concatenation", "pool_size": 1, "residual": False, "batch_norm": False},
]


def _pair(channels, dtype, device="cpu", **variant):
    """Our loss, on a device, and the naive one on the CPU, with the same random weights."""
    ours = NLKDINLoss(channels, loss_weight=3.0, **variant)
    naive = NaiveNLKDINLoss(channels, loss_weight=3.0, **variant).double()
    enliven(naive)
    ours.to(device, dtype).block.load_state_dict(naive.state_dict())
    naive.load_state_dict(ours.block.state_dict())  # the same rounding in both
    return ours, naive


def _maps(shape, dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(shape, dtype=torch.float64).to(dtype), torch.randn(shape, dtype=torch.float64).to(dtype)


def _compare(ours, naive, x, y, tolerance, autocast=None, loss_scale=1):
    device = ours.block.g.weight.device
    x, y = x.detach().to(device).requires_grad_(), y.to(device)
    wide = x.detach().double().cpu().requires_grad_()
    if autocast is None:
        got = ours(x, y)
    else:
        with torch.autocast(x.device.type, dtype=autocast):
            got = ours(x, y)
    expected = naive(wide, y.double().cpu())
    for loss in (got, expected):
        (loss * loss_scale).backward()
    assert torch.isfinite(got)
    assert relative_error(got, expected) < tolerance
    assert relative_error(x.grad, wide.grad) < tolerance
    wanted = dict(naive.named_parameters())
    # Biases before a norm have gradients that are zero in exact arithmetic, and so has everything
    # behind a softmax over one position: what is small beside the rest is compared in absolute terms.
    largest = max(part.grad.norm().item() for part in (wide, *wanted.values()))
    for name, parameter in ours.block.named_parameters():
        assert parameter.grad is not None, name
        floor = largest if name.endswith("bias") else largest * 0.1
        assert relative_error(parameter.grad, wanted[name].grad, floor) < tolerance, name
    for name, value in ours.block.named_buffers():
        assert relative_error(value, dict(naive.named_buffers())[name]) < tolerance, name


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_naive_loss(shape, variant, device):
    if variant.get("pool_size", 2) > min(shape[2:]):
        variant = {**variant, "pool_size": 2}
    ours, naive = _pair(shape[1], torch.float64, device, **variant)
    _compare(ours, naive, *_maps(shape), TOLERANCE[torch.float64])


@pytest.mark.parametrize("pool_size", [4, 8])
def test_equals_the_naive_loss_with_large_pools(pool_size, device):
    ours, naive = _pair(8, torch.float64, device, pool_size=pool_size)
    _compare(ours, naive, *_maps((2, 8, 17, 26)), TOLERANCE[torch.float64])


@pytest.mark.parametrize("affinity", AFFINITIES)
def test_equals_the_naive_loss_in_float32(affinity, device):
    ours, naive = _pair(16, torch.float32, device, affinity=affinity)
    _compare(ours, naive, *_maps((2, 16, 13, 21), torch.float32), TOLERANCE[torch.float32])


def _student_gradient(loss, x, y):
    x = x.clone().requires_grad_()
    loss(x, y).backward()
    return x.grad


@pytest.mark.parametrize("constant", [True, False], ids=["one constant channel", "all channels"])
@pytest.mark.parametrize(("affinity", "mean"), [("dot_product", 1234.567), ("gaussian", 100.0)])
def test_large_means_do_not_drown_the_gradient_in_rounding(affinity, mean, constant, device):
    x, y = _maps((2, 64, 24, 24), torch.float32)
    for feature in (x, y):
        feature[:, slice(0, 1) if constant else slice(None)].mul_(not constant).add_(mean)
    ours, naive = _pair(64, torch.float32, device, affinity=affinity)
    expected = _student_gradient(naive, x.double(), y.double())
    assert relative_error(_student_gradient(ours, x.to(device), y.to(device)), expected) < TOLERANCE[torch.float32]


@needs_bfloat16
@pytest.mark.parametrize("affinity", ["dot_product", "embedded_gaussian", "concatenation"])
@pytest.mark.parametrize("inputs", [torch.float32, torch.bfloat16])
def test_bfloat16_autocast(affinity, inputs, device):
    ours, naive = _pair(16, torch.float32, device, affinity=affinity)
    x, y = (t.to(inputs) for t in _maps((2, 16, 13, 21), torch.float32))
    _compare(ours, naive, x, y, TOLERANCE[torch.bfloat16], autocast=torch.bfloat16)


@pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version("2.4.0"),
    reason="this torch has no float16 autocast on CPUs; the modern stack runs this test",
)
@pytest.mark.parametrize("bounded", [True, False], ids=["torch's attention", "blocks"])
@pytest.mark.parametrize("affinity", AFFINITIES)
def test_float16_autocast_does_not_overflow(affinity, bounded, monkeypatch, device):
    monkeypatch.setattr(functional, "_BOUNDED_ATTENTION", bounded)
    ours, naive = _pair(16, torch.float32, device, affinity=affinity)
    x, y = (t * 200 for t in _maps((2, 16, 12, 20), torch.float32))
    with torch.no_grad():
        keys, queries = (t if affinity == "gaussian" else conv(t.double()) for t, conv in _projections(naive, x, y))
        # What makes this test: the sum over channels alone is far beyond float16's 65504.
        assert (queries.flatten(2).transpose(1, 2) @ keys.flatten(2)).abs().max() > 65504
    if "gaussian" in affinity:  # a softmax of such scores picks one position: only finiteness is defined
        x, y = x.to(device), y.to(device)
        with torch.autocast(device, dtype=torch.float16):
            loss = ours(x.requires_grad_(), y)
        loss.backward()
        assert torch.isfinite(loss) and x.grad is not None and torch.isfinite(x.grad).all()
    else:
        # With the loss scale of a usual AMP run, without which small gradients underflow.
        _compare(ours, naive, x, y, TOLERANCE[torch.float16], autocast=torch.float16, loss_scale=2**10)


def _projections(naive, x, y):
    return (y, getattr(naive, "phi", None)), (x, getattr(naive, "theta", None))


@pytest.mark.parametrize("affinity", AFFINITIES)
@pytest.mark.parametrize("layout", ["channels_last", "strided"])
def test_memory_layout_makes_no_difference(affinity, layout, device):
    ours, naive = _pair(8, torch.float64, device, affinity=affinity)
    x, y = (t.to(device) for t in _maps((2, 8, 10, 14)))
    if layout == "channels_last":
        x, y = (t.contiguous(memory_format=torch.channels_last) for t in (x, y))
    else:
        x, y = (t.transpose(2, 3).contiguous().transpose(2, 3)[:, :, ::2] for t in (x, y))
        assert not x.is_contiguous()
    _compare(ours, naive, x, y, TOLERANCE[torch.float64])


@pytest.mark.parametrize("affinity", AFFINITIES)
def test_gradcheck(affinity, device):
    ours, _ = _pair(4, torch.float64, device, affinity=affinity)
    x, y = (t.to(device) for t in _maps((2, 4, 4, 5)))
    # A GPU need not add up in the same order twice.
    assert torch.autograd.gradcheck(lambda x: ours(x, y), x.requires_grad_(), nondet_tol=1e-10)


def test_align_resizes_the_student():
    plain, naive = _pair(8, torch.float64)
    aligned = NLKDINLoss(8, loss_weight=3.0, align=True).double()
    aligned.load_state_dict(plain.state_dict())
    x, y = torch.randn(2, 8, 7, 5).double(), torch.randn(2, 8, 12, 10).double()
    resized = torch.nn.functional.interpolate(x, (12, 10), mode="bilinear", align_corners=False)
    assert relative_error(aligned(x, y), naive(resized, y)) < TOLERANCE[torch.float64]


def test_starts_as_published_with_a_block_that_adds_nothing():
    x, y = _maps((2, 8, 10, 14), torch.float32)
    for batch_norm in (True, False):
        loss = NLKDINLoss(8, batch_norm=batch_norm)
        assert torch.equal(loss.block(x.clone(), y), x)


def test_the_matrix_of_all_pairs_never_exists():
    kept: list = []
    ours, _ = _pair(8, torch.float32)
    x, y = _maps((1, 8, 40, 40), torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(_keeping(kept), lambda t: t):
        ours(x.requires_grad_(), y)
    assert max(kept) <= x.numel()


def _keeping(kept):
    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    return pack


def test_the_student_is_not_changed_in_place():
    ours, _ = _pair(8, torch.float32)
    x, y = _maps((2, 8, 10, 14), torch.float32)
    before = x.clone(), y.clone()
    ours(x, y)
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"affinity": "softmax"}, "dot_product, gaussian"),
        ({"in_channels": 0}, "positive integer"),
        ({"inter_channels": -4}, "positive integer"),
        ({"in_channels": 2.5}, "positive integer"),
        ({"pool_size": 3}, "2, 4 or 8"),
        ({"pool_size": 0}, "2, 4 or 8"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        NLKDINLoss(**{"in_channels": 8, **arguments})


@pytest.mark.parametrize(
    ("student", "teacher", "error", "message"),
    [
        (torch.zeros(2, 8, 36), torch.zeros(2, 8, 6, 6), ValueError, "expected 4 dimensions"),
        (torch.zeros(2, 4, 6, 6), torch.zeros(2, 8, 6, 6), ValueError, "Conv2d[(]4, 8, 1[)]"),
        (
            torch.zeros(2, 8, 6, 6),
            torch.zeros(2, 16, 6, 6),
            ValueError,
            "Set in_channels=16 in the loss, and map the student's 8 channels to 16 .*Conv2d[(]8, 16, 1[)]",
        ),
        (torch.zeros(2, 16, 6, 6), torch.zeros(2, 16, 6, 6), ValueError, "Set in_channels=16 in the loss[.]$"),
        (torch.zeros(2, 4, 6, 6), torch.zeros(2, 8, 6, 6), ValueError, "To cure it, map the student's 4 channels to 8"),
        (torch.zeros(2, 8, 6, 6), torch.zeros(4, 8, 6, 6), ValueError, "batch 2 .*4"),
        (torch.zeros(2, 8, 6, 6), torch.zeros(2, 8, 6, 7), ValueError, "align=True"),
        (torch.zeros(2, 8, 1, 6), torch.zeros(2, 8, 1, 6), ValueError, "pool_size=2"),
        (torch.zeros(2, 8, 1, 1), torch.zeros(2, 8, 1, 1), ValueError, "maps of one position"),
        (torch.zeros(2, 8, 6, 6).int(), torch.zeros(2, 8, 6, 6), TypeError, "floating point"),
        ((torch.zeros(2, 8, 6, 6),), torch.zeros(2, 8, 6, 6), TypeError, "got tuple, expected one tensor"),
        (torch.zeros(2, 8, 6, 6), torch.zeros(2, 8, 6, 6, device="meta"), ValueError, "one device"),
    ],
)
def test_bad_maps_are_refused(student, teacher, error, message):
    with pytest.raises(error, match=message):
        NLKDINLoss(8)(student, teacher)
