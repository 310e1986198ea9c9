"""The Conformer: rotary positions, the depthwise convolution, and padding that does not leak."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from soundstorm.model.conformer import (
    Conformer,
    DepthwiseConvolution,
    Rotation,
    depthwise_conv2d,
    rotary_angles,
    rotate,
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def small_conformer() -> Conformer:
    return Conformer(width=32, depth=2, heads=4, kernel=31, ff_mult=2, conv_mult=2, dropout=0.0).eval()


def test_rotary_scores_depend_on_the_distance_between_frames_only() -> None:
    cos, sin = rotary_angles(40, 16, torch.device("cpu"))
    query, key = torch.randn(16), torch.randn(16)
    queries, keys = rotate(query.expand(40, 16), cos, sin), rotate(key.expand(40, 16), cos, sin)
    scores = queries @ keys.T
    for distance in (-7, 0, 5):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scores[0, 0], query @ key)
    assert (scores[0, 5] - scores[0, 0]).abs() > 1e-3


def test_the_gradient_of_a_rotation_is_that_of_autograd() -> None:
    cos, sin = rotary_angles(9, 16, torch.device("cpu"))
    x, grad = torch.randn(2, 9, 16, requires_grad=True), torch.randn(2, 9, 16)
    turned, expected = Rotation.apply(x, cos, sin), rotate(x, cos, sin)
    assert torch.equal(turned, expected)
    torch.testing.assert_close(*(torch.autograd.grad(each, x, grad)[0] for each in (turned, expected)))


def test_depthwise_convolution_equals_conv1d_and_so_do_its_gradients() -> None:
    inputs = [
        torch.randn(3, 20, 6, requires_grad=True),
        torch.randn(6, 1, 1, 31, requires_grad=True),
        torch.randn(6, requires_grad=True),
    ]
    grad_BTC = torch.randn(3, 20, 6)
    ours = DepthwiseConvolution.apply(*inputs)
    ours_grads = torch.autograd.grad(ours, inputs, grad_BTC)
    x_BTC, weight, bias = inputs
    expected = F.conv1d(x_BTC.transpose(1, 2), weight.squeeze(2), bias, padding=15, groups=6).transpose(1, 2)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(depthwise_conv2d(*inputs), expected, atol=1e-5, rtol=1e-4)
    for got, wanted in zip(ours_grads, torch.autograd.grad(expected, inputs, grad_BTC), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_what_stands_in_padding_frames_changes_no_real_frame() -> None:
    model = small_conformer()
    x_BTD = torch.randn(2, 50, 32)
    valid_BT = torch.ones(2, 50, dtype=torch.bool)
    valid_BT[0, 30:] = False
    other_BTD = x_BTD.clone()
    other_BTD[0, 30:] = 100.0
    with torch.no_grad():
        first, second = model(x_BTD, valid_BT), model(other_BTD, valid_BT)
        alone = model(x_BTD[:1, :30], valid_BT[:1, :30])
    torch.testing.assert_close(first[valid_BT], second[valid_BT])
    torch.testing.assert_close(first[:1, :30], alone, atol=1e-4, rtol=1e-4)


def test_padding_gets_no_gradient() -> None:
    model = small_conformer()
    x_BTD = torch.randn(1, 40, 32, requires_grad=True)
    valid_BT = torch.arange(40)[None] < 25
    model(x_BTD, valid_BT)[:, :25].square().sum().backward()
    assert x_BTD.grad is not None
    assert x_BTD.grad[:, 25:].abs().max() == 0
    assert x_BTD.grad[:, :25].abs().min() > 0


def test_every_frame_sees_every_other_in_both_directions() -> None:
    model = small_conformer()
    x_BTD = torch.randn(1, 60, 32, requires_grad=True)
    out = model(x_BTD, torch.ones(1, 60, dtype=torch.bool))
    for frame in (0, 59):
        (gradient,) = torch.autograd.grad(out[0, frame].square().sum(), x_BTD, retain_graph=True)
        assert gradient.abs().amax(-1).min() > 0


def test_no_layer_keeps_statistics_of_a_batch() -> None:
    model = small_conformer()
    assert not list(model.buffers())
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def test_bfloat16_stays_close_to_float32_and_convolves_in_float32() -> None:
    model = small_conformer()
    x_BTD, valid_BT = torch.randn(2, 40, 32), torch.ones(2, 40, dtype=torch.bool)
    seen = []
    for block in model.blocks:
        block.convolution.depthwise_norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    with torch.no_grad():
        exact = model(x_BTD, valid_BT)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(x_BTD, valid_BT)
    assert seen == [torch.float32] * 4
    assert (rounded.float() - exact).abs().max() < 0.15
    assert (rounded.float() - exact).abs().mean() < 0.02
