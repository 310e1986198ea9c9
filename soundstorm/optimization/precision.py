"""In which numbers linear layers are computed."""

from contextlib import AbstractContextManager

import torch


def uses_bf16(device: torch.device, precision: str) -> bool:
    """Whether linear layers are computed in bfloat16; `auto` asks the device whether it has instructions for it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Context in which linear layers follow `precision` (auto, fp32 or bf16)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(device, precision))
