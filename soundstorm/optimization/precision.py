"""In which numbers linear layers are computed."""

from contextlib import AbstractContextManager
from typing import Literal

import torch

Precision = Literal["auto", "bfloat16", "float32"]
"""As in options, records and recipes."""
SHORT_NAMES: dict[str, Literal["auto", "bf16", "fp32"]] = {"auto": "auto", "bfloat16": "bf16", "float32": "fp32"}
"""As in the settings of a training."""
LONG_NAMES: dict[str, Precision] = {"auto": "auto", "bf16": "bfloat16", "fp32": "float32"}


def uses_bf16(device: torch.device, precision: str) -> bool:
    """Whether linear layers are computed in bfloat16; `auto` asks the device whether it has instructions for it.

    Args:
        device: where they are computed.
        precision: auto, bf16 or fp32, or the long names of the last two.
    """
    if precision != "auto":
        return precision in ("bf16", "bfloat16")
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def decided(device: torch.device, precision: Precision) -> Precision:
    """`precision`, with that of the device in the place of `auto`."""
    return "bfloat16" if uses_bf16(device, precision) else "float32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Context in which linear layers follow `precision` (auto, fp32 or bf16)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(device, precision))
