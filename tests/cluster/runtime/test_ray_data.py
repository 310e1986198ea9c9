"""Ray Data without its notes on the terminal."""

import io
import logging

import ray.data
from ray._private.log import PlainRayHandler

from cluster.runtime.ray_data import quiet_ray_data


def test_ray_data_is_quiet_on_the_terminal_and_other_handlers_of_its_logger_keep_their_level() -> None:
    logger, stream = logging.getLogger(ray.data.__name__), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        quiet_ray_data()
        own = [each for each in logger.handlers if isinstance(each, PlainRayHandler)]
        assert own and all(each.level == logging.CRITICAL for each in own)
        assert handler.level == logging.INFO
        logger.error("a shard failed")
        assert stream.getvalue() == "a shard failed\n"
    finally:
        logger.removeHandler(handler)
