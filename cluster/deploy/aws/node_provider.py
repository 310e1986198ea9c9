"""Ray's provider of nodes on AWS, which also rents on demand what the spot market does not have. Named by `provider:
module:` of cluster.yaml."""

import logging
from typing import Any

from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException

MARKET = "InstanceMarketOptions"
NO_SPOT = {
    "InsufficientInstanceCapacity",
    "MaxSpotInstanceCountExceeded",
    "SpotMaxPriceTooLow",
    "UnfulfillableCapacity",
    "Unsupported",  # the type is not on the spot market of any of the zones
}
"""What EC2 answers when a spot node cannot be had, but one on demand may."""

logger = logging.getLogger(__name__)


class SpotFirstNodeProvider(AWSNodeProvider):
    """Asks for each node as its `node_config` says; if that is on the spot market and it has none in any zone, on
    demand."""

    def _create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        try:
            return dict(super()._create_node(node_config, tags, count))
        except NodeLaunchException as error:
            if MARKET not in node_config or error.category not in NO_SPOT:
                raise
            logger.warning(
                "no spot node (%s): %d of %s on demand", error.category, count, node_config.get("InstanceType")
            )
        return dict(
            super()._create_node({key: value for key, value in node_config.items() if key != MARKET}, tags, count)
        )
