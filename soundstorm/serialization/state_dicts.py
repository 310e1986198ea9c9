"""Checks that tensors from a file belong to a network, before memory is allocated for the network."""

from collections.abc import Callable, Mapping

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from soundstorm.errors import SoundStormError
from soundstorm.serialization.int8 import dequantize
from soundstorm.serialization.without_memory import without_memory


def check_state_dict(
    make: Callable[[], nn.Module], tensors: Mapping[str, Tensor], optional: tuple[str, ...] = ()
) -> None:
    """Raise unless `tensors` have the names and shapes of the network's parameters and finite values.

    Args:
        make: creates the network; called on the meta device.
        tensors: by name.
        optional: suffixes of the names of tensors that may be absent.

    Raises:
        ValueError: a tensor is missing, unknown, of another shape, or contains NaN or infinity.
    """
    with without_memory():
        expected = make().state_dict()
    absent = [name for name in expected if name not in tensors and not name.endswith(optional)]
    unknown = sorted(tensors.keys() - expected.keys())
    if absent or unknown:
        raise ValueError(f"parameters differ from its architecture: {', '.join((absent + unknown)[:3])}")
    for name, tensor in sorted(tensors.items()):  # a file gives its tensors in no fixed order
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"'{name}' has shape {tuple(tensor.shape)}, its architecture {tuple(expected[name].shape)}"
            )
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"'{name}' holds values that are not finite")


DTYPES = (torch.float32, torch.float16, torch.int8)
"""Types of stored weights: as trained, or quantized."""


def read_weights(weights: bytes, path: str, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Tensors of a safetensors file, packed or not, which must have these names and shapes and hold finite numbers;
    float32."""
    try:
        stored = safetensors.torch.load(weights)
        for name, tensor in sorted(stored.items()):
            if tensor.dtype not in DTYPES:
                raise SoundStormError(
                    f"{path}: tensor '{name}' is of {tensor.dtype}, neither float32 nor packed: copy the checkpoint "
                    "again"
                )
        tensors = dequantize(stored)
    except (
        SafetensorError,
        ValueError,
        LookupError,
        RuntimeError,
        TypeError,
        AttributeError,
        ArithmeticError,
    ) as error:
        raise SoundStormError(
            f"{path} is not a safetensors file, or is cut off ({error}): copy the checkpoint again"
        ) from error
    if tensors.keys() != shapes.keys():
        name = sorted(tensors.keys() ^ shapes.keys())[0]
        raise SoundStormError(
            f"{path}: tensor '{name}' is {'missing' if name in shapes else 'unknown'}: the weights are of another "
            "network than config.json"
        )
    for name, tensor in sorted(tensors.items()):  # a file gives its tensors in no fixed order
        if tensor.shape != shapes[name]:
            expected = tuple(shapes[name])
            raise SoundStormError(
                f"{path}: tensor '{name}' has shape {tuple(tensor.shape)}, but config.json describes {expected}: copy "
                "the checkpoint again"
            )
        if not bool(tensor.isfinite().all()):
            raise SoundStormError(f"{path}: tensor '{name}' is not of finite numbers: go back to an earlier checkpoint")
    return tensors
