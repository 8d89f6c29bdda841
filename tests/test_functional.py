from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cankd import functional
from tests.conftest import TOLERANCE, relative_error

SHAPES = [(2, 8, 10, 14), (1, 3, 7, 9), (3, 6, 2, 5), (2, 4, 3, 2)]


def _maps(shape, dtype=torch.float64, seed=0, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 1
    y = torch.randn(shape, generator=generator, dtype=torch.float64) * 0.5 - 2
    return x.to(device, dtype).requires_grad_(), y.to(device, dtype).requires_grad_()


def _expected(x, y):
    return 0.5 * F.mse_loss(F.instance_norm(x), F.instance_norm(y))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_instance_norm_mse_equals_autograd(shape, dtype, device):
    x, y = _maps(shape, dtype, device=device)
    wide_x, wide_y = (t.detach().double().cpu().requires_grad_() for t in (x, y))
    got, expected = functional.instance_norm_mse(x, y), _expected(wide_x, wide_y)
    got.backward()
    expected.backward()
    assert got.dtype == torch.promote_types(dtype, torch.float32)
    # Statistics are in float32 or more, so that the value is exact for the maps that came in.
    assert relative_error(got, expected) < TOLERANCE[torch.promote_types(dtype, torch.float32)]
    assert x.grad.dtype == dtype
    assert relative_error(x.grad, wide_x.grad) < TOLERANCE[dtype]
    assert relative_error(y.grad, wide_y.grad) < TOLERANCE[dtype]


def test_instance_norm_mse_gradcheck():
    assert torch.autograd.gradcheck(functional.instance_norm_mse, _maps((2, 3, 4, 5)))


def test_instance_norm_mse_is_exact_where_the_maps_agree():
    x, _ = _maps((2, 4, 20, 30), torch.float32)
    y = x.detach() + 1e-3 * torch.randn(x.shape)
    expected = _expected(x.detach().double(), y.double())
    assert relative_error(functional.instance_norm_mse(x, y), expected) < 1e-3
    assert functional.instance_norm_mse(x, x.detach()).item() < 1e-12


def test_instance_norm_mse_ignores_scale_and_shift_of_each_channel():
    x, y = _maps((2, 4, 9, 7))
    scale, shift = torch.rand(2, 4, 1, 1).double() + 1, torch.randn(2, 4, 1, 1).double()
    changed = functional.instance_norm_mse(x * scale + shift, y, eps=0)
    assert relative_error(changed, functional.instance_norm_mse(x, y, eps=0)) < 1e-10


def test_instance_norm_mse_survives_large_means_in_float32():
    x, y = _maps((1, 2, 16, 16))
    x, y = (x.detach() + 300).float(), (y.detach() - 300).float()
    assert relative_error(functional.instance_norm_mse(x, y), _expected(x.double(), y.double())) < 1e-3


@pytest.mark.parametrize("spread", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("value", [0.1, 1.0, 10.0, 1000.0, 1234.567])
def test_instance_norm_mse_gradient_of_a_channel_far_from_zero_in_float32(value, spread, monkeypatch, device):
    for name in ("_CPU_BLOCK", "_CUDA_BLOCK"):
        monkeypatch.setattr(functional, name, 3 * 2 * 25 * 42)  # blocks of 3, 3 and 2 channels
    x, y = torch.randn(2, 2, 8, 25, 42).unbind()
    for feature in (x, y):
        feature[:, 3] = value + spread * feature[:, 3]
    wide_x, wide_y = (feature.double().requires_grad_() for feature in (x, y))
    x, y = x.to(device), y.to(device)
    functional.instance_norm_mse(x.requires_grad_(), y.requires_grad_()).backward()
    _expected(wide_x, wide_y).backward()
    for narrow, wide in ((x, wide_x), (y, wide_y)):
        assert narrow.grad is not None and wide.grad is not None
        assert relative_error(narrow.grad, wide.grad) < 1e-6


def test_instance_norm_mse_second_derivative():
    assert torch.autograd.gradgradcheck(functional.instance_norm_mse, _maps((2, 2, 3, 4)))


def test_instance_norm_mse_second_derivative_with_a_frozen_teacher():
    x, y = _maps((2, 2, 3, 4))
    for value in (functional.instance_norm_mse(x, y.detach()), _expected(x, y.detach())):
        (grad,) = torch.autograd.grad(value, x, create_graph=True)
        grad.square().sum().backward()
    first = x.grad.clone()
    x.grad = None
    (grad,) = torch.autograd.grad(_expected(x, y.detach()), x, create_graph=True)
    grad.square().sum().backward()
    assert relative_error(first, 2 * x.grad) < 1e-10


def test_instance_norm_mse_keeps_no_map_of_its_own():
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    x, y = _maps((2, 8, 32, 32), torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        functional.instance_norm_mse(x, y)
    maps = {t.data_ptr() for t in kept if t.numel() == x.numel()}
    assert maps == {x.data_ptr(), y.data_ptr()}
    assert sum(t.numel() for t in kept if t.numel() != x.numel()) <= 6 * 2 * 8


def test_linear_order_equals_the_papers_order():
    theta, phi, g = (torch.randn(2, 5, n, dtype=torch.float64) for n in (30, 7, 7))
    expected = (theta.transpose(1, 2) @ phi / 7 @ g.transpose(1, 2)).transpose(1, 2)
    assert relative_error(functional.dot_product_context(phi, g) @ theta, expected) < 1e-12


def test_softmax_attention_equals_the_definition_in_one_and_in_many_blocks(monkeypatch, device):
    wide = {"dtype": torch.float64, "device": device, "requires_grad": True}
    q, k, v = (torch.randn(2, n, c, **wide) for n, c in ((37, 6), (11, 6), (11, 3)))
    expected = (q @ k.transpose(1, 2)).softmax(-1) @ v
    expected_grads = torch.autograd.grad(expected.square().sum(), (q, k, v))
    for bounded, scores in ((functional._BOUNDED_ATTENTION, 9 << 20), (False, 9 << 20), (False, 60)):
        monkeypatch.setattr(functional, "_BOUNDED_ATTENTION", bounded)
        monkeypatch.setattr(functional, "_BLOCK_SCORES", scores)
        got = functional.softmax_attention(q, k, v)
        assert relative_error(got, expected) < 1e-12
        for grad, wanted in zip(torch.autograd.grad(got.square().sum(), (q, k, v)), expected_grads):
            assert relative_error(grad, wanted) < 1e-12


@pytest.mark.parametrize("bounded", [True, False])
def test_softmax_attention_keeps_the_rounding_of_large_means_out(bounded, monkeypatch, device):
    monkeypatch.setattr(functional, "_BOUNDED_ATTENTION", bounded and functional._BOUNDED_ATTENTION)
    q, k, v = (torch.randn(2, 40, 64) + 100 for _ in range(3))
    upstream = torch.randn(2, 40, 64)
    wide = [part.double().requires_grad_() for part in (q, k, v)]
    narrow = [part.to(device).requires_grad_() for part in (q, k, v)]
    expected = (wide[0] @ wide[1].transpose(1, 2)).softmax(-1) @ wide[2]
    got = functional.softmax_attention(*narrow)
    assert relative_error(got, expected) < 1e-5
    wanted = torch.autograd.grad(expected, wide, upstream.double())
    largest = max(grad.norm().item() for grad in wanted)
    for grad, other in zip(torch.autograd.grad(got, narrow, upstream.to(device)), wanted):
        assert relative_error(grad, other, largest) < 1e-3


def test_relu_sum_attention_equals_the_definition_in_many_blocks(monkeypatch, device):
    monkeypatch.setattr(functional, "_BLOCK_SCORES", 60)
    wide = {"dtype": torch.float64, "device": device, "requires_grad": True}
    q, k, v = (torch.randn(2, n, c, **wide) for n, c in ((37, 1), (11, 1), (11, 3)))
    expected = (q + k.transpose(1, 2)).relu() @ v / 11
    got = functional.relu_sum_attention(q, k, v)
    assert relative_error(got, expected) < 1e-12
    grads = [torch.autograd.grad(out.square().sum(), (q, k, v)) for out in (got, expected)]
    assert all(relative_error(a, b) < 1e-12 for a, b in zip(*grads))
