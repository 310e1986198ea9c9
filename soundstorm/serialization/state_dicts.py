"""Whether tensors from a file are those of a network, found out before a byte of memory is given to the network."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


def require_fit(make: Callable[[], nn.Module], tensors: Mapping[str, Tensor], may_lack: tuple[str, ...] = ()) -> None:
    """Raise unless `tensors` have the names and shapes of the network's and finite values.

    Args:
        make: the network, which is made without memory for its tensors.
        tensors: by name.
        may_lack: ends of the names of tensors that may be absent.

    Raises:
        ValueError: a tensor is missing, unknown, of another shape, or holds NaN or infinity.
    """
    with torch.device("meta"):
        expected = make().state_dict()
    absent = [name for name in expected if name not in tensors and not name.endswith(may_lack)]
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
