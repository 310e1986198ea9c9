"""A network whose weight matrices are rounded to bfloat16 once, instead of by autocast in every forward pass.

Autocast rounds the operands of each matrix product, the weights included, at every call. Rounding the weights in
advance gives the same bits. On CPUs with AMX tiles, linear layers also store their weights in the layout of oneDNN's
kernel, which otherwise reorders them at every call; kernel and results are the same.
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

PACKED_ROWS = 752
"""Number of input rows for which oneDNN chooses the layout: eight clips of 5 s of the packaged network."""
_lock = threading.Lock()
_found: weakref.WeakKeyDictionary[nn.Module, tuple[State, nn.Module]] = weakref.WeakKeyDictionary()


def rounded_to_bfloat16(network: Network) -> Network:
    """A copy of `network` in evaluation mode with its weight matrices in bfloat16, to be run under autocast; it shares
    all other tensors with `network`. The copy is cached until the weights change."""
    tensors = [*network.parameters(), *network.buffers()]
    if any(tensor.is_inference() for tensor in tensors):  # they have no version counter that would show a change
        return _rounded_copy(network)
    state = tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)
    with _lock:
        found = _found.get(network)
        if found is None or found[0] != state:
            found = state, _rounded_copy(network)
            _found[network] = found
    return found[1]  # type: ignore[return-value]


class PackedLinear(nn.Module):
    """A linear layer in bfloat16 with weights in oneDNN's layout.

    Args:
        linear: the layer, on a CPU.
    """

    packed: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().bfloat16(), PACKED_ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach().bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x.bfloat16(), self.packed, self.bias, "none", [], "")


def packs(device: torch.device) -> bool:
    """Whether linear layers on this device become `PackedLinear`."""
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported() and torch.backends.mkldnn.is_available()


@torch.no_grad()
def _rounded_copy(module: Network) -> Network:
    """A copy of the module and its submodules that shares hooks and all tensors that are not rounded."""
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
    """Names of the parameters of `module` itself that are used in matrix products only."""
    if isinstance(module, nn.Linear):
        return ("weight",) if module.bias is None else ("weight", "bias")
    if isinstance(module, PlaceHead):
        return ("project_QHL",)
    return ("head_weight",) if isinstance(module, SoundStorm) else ()
