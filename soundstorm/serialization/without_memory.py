"""Networks without memory for their tensors, to know the names and shapes of these.

They are made on torch's device `meta`. Random numbers would be drawn there by torch's compiler, whose import alone
takes a second and a half; none are drawn.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

RANDOM = frozenset(
    {
        *(getattr(nn.init, name) for name in ("normal_", "uniform_", "trunc_normal_", "kaiming_uniform_")),
        *(getattr(nn.init, name) for name in ("kaiming_normal_", "xavier_uniform_", "xavier_normal_")),
        torch.Tensor.normal_,
        torch.Tensor.uniform_,
    }
)


class _Undrawn(TorchFunctionMode):
    """Leaves tensors that are to be filled with random numbers as they are."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in RANDOM:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def without_memory() -> Iterator[None]:
    """Context in which networks are made without memory."""
    with torch.device("meta"), _Undrawn():
        yield
