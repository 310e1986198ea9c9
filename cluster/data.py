"""Ray Data as the jobs use it: without its own bars, notes and tracebacks: its errors are raised all the same, and its log files stay."""

import logging

import ray.data


def quiet_ray_data() -> None:
    """Call before a dataset is built."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.CRITICAL)
