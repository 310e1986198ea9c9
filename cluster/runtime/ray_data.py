"""Settings of Ray Data for jobs: without its progress bars, notes and tracebacks. Its errors are still raised, and its
log files are kept."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

import ray.data
from ray._private.log import PlainRayHandler
from ray.data import ExecutionResources
from ray.util.annotations import RayDeprecationWarning

from cluster.runtime.resources import current_quota

BLOCK_TIMEOUT_S = 1800.0
"""Longest wait for a block of a dataset; then reading fails."""


def quiet_ray_data(watched: bool = False) -> None:
    """Call it before a dataset is built. `watched`: the dataset runs under a `cluster.scheduling.watchdog`, so the
    block timeout is off."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = -1 if watched else BLOCK_TIMEOUT_S
    quota = current_quota()
    if quota is not None:
        context.execution_options.resource_limits = ExecutionResources.for_limits(
            cpu=quota.num_cpus, gpu=quota.num_gpus
        )
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, PlainRayHandler):  # Ray's own, which writes to the terminal; handlers of others stay
            handler.setLevel(logging.CRITICAL)


@contextlib.contextmanager
def bounded_retries() -> Iterator[None]:
    """Suppress the deprecation warning of `max_restarts` and `max_task_retries`: Ray Data has no other parameter to
    limit retries yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)
        yield
