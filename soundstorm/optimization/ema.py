"""An exponential moving average of a network's weights."""

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from soundstorm.errors import SoundStormError

Network = TypeVar("Network", bound=nn.Module)


class EMA:
    """Averages parameters with decay min(decay, (1 + updates) / (10 + updates)), so that the first weights are soon
    forgotten.

    It holds one copy of the parameters; the network it was made from is not kept.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.average = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards the parameters of `model`, the bare network rather than its DDP wrapper."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        parameters = dict(model.named_parameters())
        torch._foreach_lerp_(
            list(self.average.values()), [parameters[name].detach() for name in self.average], 1 - decay
        )

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Gives `model` the averaged weights."""
        for name, parameter in model.named_parameters():
            parameter.copy_(self.average[name])

    def averaged(self, model: Network) -> Network:
        """A copy of `model` with the averaged weights, in evaluation mode."""
        result = copy.deepcopy(model)
        self.copy_to(result)
        return result.eval()

    def state_dict(self) -> dict[str, Any]:
        return {"decay": self.decay, "updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`; raises SoundStormError when the state is of another network."""
        average: dict[str, Tensor] = state["average"]
        if {name: value.shape for name, value in average.items()} != {
            name: value.shape for name, value in self.average.items()
        }:
            raise SoundStormError(
                "the averaged weights in the training state are of another network: resume with the settings it was "
                "started with"
            )
        self.decay, self.updates = float(state["decay"]), int(state["updates"])
        for name, value in average.items():
            self.average[name].copy_(value)
