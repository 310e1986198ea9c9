"""Which weights of a network AdamW decays."""

from typing import Any

from torch import nn

UNDECAYED = ("embedding.weight", "depthwise.weight", "head_bias")
"""Ends of the names of matrices that do not decay."""


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trained parameters as groups of AdamW: the matrices of linear and convolutional layers and heads decay, the
    others do not."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    decayed = {name for name, parameter in trained.items() if parameter.ndim > 1 and not name.endswith(UNDECAYED)}
    return [
        {"params": [trained[name] for name in trained if name in decayed], "weight_decay": weight_decay},
        {"params": [trained[name] for name in trained if name not in decayed], "weight_decay": 0.0},
    ]
