"""The place of a process among those that train a network together."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


def _as_it_is(network: nn.Module) -> nn.Module:
    return network


@dataclass(kw_only=True, frozen=True)
class Worker:
    """One of the processes that share the steps of a training; by default the only one."""

    rank: int = 0
    """Index of this worker."""
    num_workers: int = 1
    """Number of workers that share each step."""
    wrap: Callable[[nn.Module], nn.Module] = _as_it_is
    """Makes a network distributed, e.g. Ray Train's `prepare_model`."""


ALONE = Worker()
"""The only worker of a training."""
