"""A node that the spot market does not have is rented on demand, as a server of EC2 sees it (moto, behind a door that
turns spot requests away)."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest
import requests
from ray.autoscaler.node_launch_exception import NodeLaunchException

from cluster.deploy.aws.node_provider import SpotFirstNodeProvider
from tests.conftest import S3Server

REGION = "us-east-1"
SPOT_REQUEST = b"InstanceMarketOptions.MarketType=spot"
IMAGE = "ami-12c6146b"  # one that moto knows
NO_ROOM = "InsufficientInstanceCapacity"
Door = Callable[[str], None]


@pytest.fixture(scope="module")
def door(s3: S3Server) -> Iterator[Door]:
    """Leads to the server of EC2; called with an error's code, it answers spot requests with that from then on."""
    refusal = [""]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if refusal[0] and SPOT_REQUEST in body:
                error = f"<Error><Code>{refusal[0]}</Code><Message>not now</Message></Error>"
                status, content = 500, f"<Response><Errors>{error}</Errors><RequestID>1</RequestID></Response>".encode()
            else:
                answer = requests.post(s3.endpoint, data=body, headers=dict(self.headers), timeout=60)
                status, content = answer.status_code, answer.content
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_EC2", f"http://127.0.0.1:{server.server_port}")
        yield lambda code: refusal.__setitem__(0, code)
    server.shutdown()
    server.server_close()


def rent(market: dict[str, Any]) -> str:
    """Have a node rented and return how: `spot` or `on demand`."""
    ec2 = boto3.session.Session().client("ec2", region_name=REGION)
    node_config = {
        "InstanceType": "g5.xlarge",
        "ImageId": IMAGE,
        "SubnetIds": [ec2.describe_subnets()["Subnets"][0]["SubnetId"]],
    }
    provider = SpotFirstNodeProvider({"region": REGION, "cache_stopped_nodes": False}, "soundstorm")
    [instance] = provider.create_node(node_config | market, {"ray-node-type": "worker"}, 1)
    [reservation] = ec2.describe_instances(InstanceIds=[instance])["Reservations"]
    return str(reservation["Instances"][0].get("InstanceLifecycle", "on demand"))


SPOT = {"InstanceMarketOptions": {"MarketType": "spot"}}


def test_a_node_is_of_the_spot_market_while_that_has_some(door: Door) -> None:
    assert rent(SPOT) == "spot"


def test_a_node_is_on_demand_when_the_spot_market_has_none(door: Door) -> None:
    door(NO_ROOM)
    assert rent(SPOT) == "on demand"
    assert rent({}) == "on demand"


def test_a_node_is_marked_with_its_cluster_as_it_is_rented(door: Door) -> None:
    """The head's policy, `cluster/deploy/aws/head_policy.json`, lets it rent no others."""
    rent({})
    ec2 = boto3.session.Session().client("ec2", region_name=REGION)
    instances = [instance for found in ec2.describe_instances()["Reservations"] for instance in found["Instances"]]
    assert instances and all(
        {"Key": "ray-cluster-name", "Value": "soundstorm"} in instance["Tags"] for instance in instances
    )


def test_what_would_fail_on_demand_too_is_told(door: Door) -> None:
    door("UnauthorizedOperation")
    with pytest.raises(NodeLaunchException) as caught:
        rent(SPOT)
    assert caught.value.category == "UnauthorizedOperation"
