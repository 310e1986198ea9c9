"""Quantization of weights to 8-bit integers with a scale per output row, and to half precision for the rest: an eighth
to a quarter of the size.

The weights in the package are quantized. The rounding error is some 40 dB below the weights.
"""

import torch
from torch import Tensor

SCALE = ".scale"
"""Suffix of the name of a tensor with the scales of a quantized tensor."""
MIN_ELEMENTS = 4096
"""Smaller tensors are stored in half precision."""


def quantize(
    tensors: dict[str, Tensor], keep: tuple[str, ...] = (), stacked: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Quantize matrices to int8, with a tensor `NAME.scale` (rows,) for each; everything else, and names that end with
    one of `keep`, is stored in float16.

    Args:
        tensors: by name.
        keep: suffixes of the names of matrices that are only rounded to float16.
        stacked: names of stacks of matrices (stack, rows, columns), which get scales (stack, rows).
    """
    packed = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().float()
        if value.ndim < 2 or value.numel() < MIN_ELEMENTS or name.endswith(keep):
            packed[name] = value.to(torch.float16).contiguous()
            continue
        # The scale is rounded to half precision first, so that the integers fit what will be multiplied.
        row_dims = 2 if name in stacked else 1
        scale = (value.flatten(row_dims).abs().amax(-1) / 127).clamp(min=1e-7).to(torch.float16)
        shaped = scale.float().reshape(*scale.shape, *[1] * (value.ndim - row_dims))
        packed[name] = torch.round(value / shaped).clamp(-127, 127).to(torch.int8).contiguous()
        packed[name + SCALE] = scale
    return packed


def dequantize(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `quantize`, in float32.

    Raises:
        ValueError: an integer tensor has no scales, or scales for another number of rows.
    """
    result = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALE) and name.removesuffix(SCALE) in tensors:
            continue
        value = tensor.float()
        if tensor.dtype == torch.int8:
            scale = tensors.get(name + SCALE)
            if scale is None or scale.ndim == 0 or scale.shape != tensor.shape[: scale.ndim]:
                raise ValueError(f"'{name}' has no scale for each of its rows")
            value = value * scale.float().reshape(*scale.shape, *[1] * (tensor.ndim - scale.ndim))
        result[name] = value
    return result
