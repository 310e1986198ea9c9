"""Node provider of Ray for AWS that falls back to on-demand nodes if there is no spot capacity. Referenced by
`provider: module:` of cluster.yaml."""

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
    "Unsupported",  # the instance type has no spot market in any of the zones
}
"""EC2 error codes for which an on-demand node may be available although a spot node is not."""

logger = logging.getLogger(__name__)


class SpotFirstNodeProvider(AWSNodeProvider):
    """Requests each node as in its `node_config`; if that is a spot node and there is no capacity in any zone, on
    demand."""

    def _create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        try:
            return dict(super()._create_node(node_config, tags, count))
        except NodeLaunchException as error:
            if MARKET not in node_config or error.category not in NO_SPOT:
                raise
            logger.warning(
                "no spot capacity (%s): launching %d %s on demand",
                error.category,
                count,
                node_config.get("InstanceType"),
            )
        return dict(
            super()._create_node({key: value for key, value in node_config.items() if key != MARKET}, tags, count)
        )
