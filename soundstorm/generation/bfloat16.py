"""A network whose matrices are rounded to bfloat16 once, for generation, instead of by autocast in every pass.

Autocast rounds what a product takes in, weights as well, each time it is asked for it. Rounded before, a weight has the
same bits, and so has everything that follows from it. Where a CPU multiplies in tiles (AMX), linear layers also keep
their weights in the order in which oneDNN's kernel reads them, which it would else bring about at every call; the
kernel is the same, and so are the bits.
"""

import copy
import threading
import weakref
from typing import TypeVar

import torch
from torch import Tensor, nn

from soundstorm.model.centroids import Centroids
from soundstorm.model.place_head import PlaceHead
from soundstorm.model.soundstorm import SoundStorm

Network = TypeVar("Network", bound=nn.Module)
State = tuple[tuple[int, int], ...]

PACKED_FOR = 752
"""Rows of a product that the order of packed weights is chosen for: eight clips of 5 s of the packaged network."""
_lock = threading.Lock()
_found: weakref.WeakKeyDictionary[nn.Module, tuple[State, nn.Module]] = weakref.WeakKeyDictionary()


def rounded_to_bfloat16(network: Network) -> Network:
    """`network` in evaluation mode with its matrices in bfloat16, to be run under autocast; all other tensors are those
    of `network`. It is made once, and again when the weights have changed."""
    tensors = [*network.parameters(), *network.buffers()]
    if any(tensor.is_inference() for tensor in tensors):  # whether these change cannot be seen
        return _rounded_copy(network)
    state = tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)
    with _lock:
        found = _found.get(network)
        if found is None or found[0] != state:
            found = state, _rounded_copy(network)
            _found[network] = found
    return found[1]  # type: ignore[return-value]


class PackedLinear(nn.Module):
    """A linear layer in bfloat16 whose weights lie as oneDNN reads them.

    Args:
        linear: the layer, on a CPU.
    """

    packed: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().bfloat16(), PACKED_FOR)
        self.bias = None if linear.bias is None else linear.bias.detach().bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x.bfloat16(), self.packed, self.bias, "none", [], "")


def packs(device: torch.device) -> bool:
    """Whether linear layers are packed there."""
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported() and torch.backends.mkldnn.is_available()


@torch.no_grad()
def _rounded_copy(module: Network) -> Network:
    """The module and those in it, with tensors and hooks that are the same."""
    twin = copy.copy(module)
    twin.training = False
    twin._parameters, twin._buffers = dict(module._parameters), dict(module._buffers)
    twin._modules = {name: None if child is None else _rounded(child) for name, child in module._modules.items()}
    if isinstance(twin, Centroids):
        twin.rounded_QKL = twin.vectors_QKL.bfloat16()
    for name in _matrices(twin):
        setattr(twin, name, nn.Parameter(getattr(twin, name).bfloat16(), requires_grad=False))
    return twin


def _rounded(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.Linear) and packs(module.weight.device):
        return PackedLinear(module)
    return _rounded_copy(module)


def _matrices(module: nn.Module) -> tuple[str, ...]:
    """Names of the parameters of `module` itself that only products take in."""
    if isinstance(module, nn.Linear):
        return ("weight",) if module.bias is None else ("weight", "bias")
    if isinstance(module, PlaceHead):
        return ("project_QHL",)
    return ("head_weight",) if isinstance(module, SoundStorm) else ()
