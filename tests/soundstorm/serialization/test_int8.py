"""Packed weights are small, close to the original, and refuse to be read wrongly."""

import pytest
import torch

from soundstorm.serialization.int8 import dequantize, quantize


def test_a_packed_matrix_is_a_quarter_of_its_size_and_within_half_a_step() -> None:
    matrix = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    packed = quantize({"w": matrix})
    assert packed["w"].dtype == torch.int8
    step = matrix.abs().amax(1, keepdim=True) / 127
    assert ((dequantize(packed)["w"] - matrix).abs() <= 0.51 * step).all()


def test_each_row_has_its_own_scale() -> None:
    matrix = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 2, 64)[:, None]
    error = (dequantize(quantize({"w": matrix}))["w"] - matrix).norm(dim=1) / matrix.norm(dim=1)
    assert error.max() < 0.015


def test_vectors_small_tensors_and_names_to_keep_stay_in_half_precision() -> None:
    tensors = {"bias": torch.randn(5000), "small": torch.randn(3, 4), "level.embed": torch.randn(128, 128)}
    packed = quantize(tensors, keep=("embed",))
    assert {value.dtype for value in packed.values()} == {torch.float16}
    assert packed.keys() == tensors.keys()
    for name, value in dequantize(packed).items():
        torch.testing.assert_close(value, tensors[name], atol=2e-3, rtol=1e-3)


def test_convolutions_keep_their_shape_and_zero_rows_stay_zero() -> None:
    kernel = torch.randn(320, 1, 1, 31)
    kernel[7] = 0
    restored = dequantize(quantize({"k": kernel}))["k"]
    assert restored.shape == kernel.shape
    assert restored[7].abs().max() == 0


def test_integers_without_their_scales_are_refused() -> None:
    packed = quantize({"w": torch.randn(64, 128)})
    with pytest.raises(ValueError, match="'w' has no scale"):
        dequantize({"w": packed["w"]})
    with pytest.raises(ValueError, match="'w' has no scale"):
        dequantize(packed | {"w.scale": packed["w.scale"][:3]})


def test_a_stack_of_matrices_has_a_scale_for_each_row_of_each() -> None:
    heads = torch.randn(3, 50, 64) * torch.logspace(-3, 2, 150).view(3, 50, 1)
    packed = quantize({"head": heads}, stacked=("head",))
    assert (packed["head"].dtype, packed["head.scale"].shape) == (torch.int8, (3, 50))
    back = dequantize(packed)["head"]
    assert float(((back - heads).flatten(2).norm(dim=-1) / heads.norm(dim=-1)).max()) < 0.02
