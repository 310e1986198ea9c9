"""Ray Data as the jobs use it: without its own bars, notes and tracebacks: its errors are raised all the same, and its
log files stay."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

import ray.data
from ray.data import ExecutionResources
from ray.util.annotations import RayDeprecationWarning

from cluster.runtime.resources import own_share

PATIENCE_S = 1800.0
"""A block that takes longer than this to come ends the reading of a dataset."""


def quiet_ray_data(watched: bool = False) -> None:
    """Call before a dataset is built. `watched` = a `cluster.scheduling.watchdog` is kept over it, which knows better
    than a clock whether it goes on."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = -1 if watched else PATIENCE_S
    share = own_share()
    if share is not None:
        context.execution_options.resource_limits = ExecutionResources.for_limits(
            cpu=share.num_cpus, gpu=share.num_gpus
        )
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.CRITICAL)


@contextlib.contextmanager
def bounded_retries() -> Iterator[None]:
    """Where a dataset's tasks are told how often to try again: there is no named parameter for it yet, only the old way
    to say it, which warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)
        yield
