"""Initialization: normal weights that preserve the variance of activations."""

import math

import torch
from torch import Tensor, nn

from soundstorm.model.conformer import Attention, Conformer, Convolution, FeedForward


def start_projection(parameter: Tensor, inputs: int, scale: float) -> None:
    """Normal weights such that products with `inputs` features of variance 1 have the standard deviation `scale`."""
    nn.init.normal_(parameter, std=scale / math.sqrt(inputs))


def start_layers(network: nn.Module, conformer: Conformer) -> None:
    """Initialize the linear layers of a network with variance 1 / inputs, and scale down the residual branches of its
    Conformer with depth."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            start_projection(module.weight, module.in_features, 1.0)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in conformer.modules():
        if isinstance(module, FeedForward | Attention | Convolution):
            last = module.project if isinstance(module, Attention) else module.contract
            with torch.no_grad():
                last.weight.mul_(1 / math.sqrt(4 * len(conformer.blocks)))
