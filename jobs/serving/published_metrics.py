"""Prometheus metrics of Ray Serve and of this project, collected from all nodes."""

import logging
import urllib.error
import urllib.request
from collections.abc import Iterable

import ray

PREFIXES = ("ray_serve_", "ray_soundstorm_")
TIMEOUT_S = 3.0
MAX_BYTES = 64 << 20
logger = logging.getLogger(__name__)


def published_metrics() -> str:
    """Metrics of all nodes that answer, in the Prometheus text format."""
    texts = []
    for node in ray.nodes():
        if not node["Alive"] or not node.get("MetricsExportPort"):
            continue
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
                texts.append(answer.read(MAX_BYTES).decode("utf-8", "replace"))
        except (OSError, urllib.error.URLError) as error:
            logger.warning("the metrics of %s cannot be read: %s", url, error)
    return merged(texts)


def merged(texts: Iterable[str]) -> str:
    """Merge texts: metrics whose name has one of PREFIXES, grouped by family."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for text in texts:
        family = ""
        for line in text.splitlines():
            if line.startswith("# "):
                words = line.split(" ", 3)
                family = words[2] if len(words) > 2 else ""
                if family.startswith(PREFIXES) and line not in heads.setdefault(family, []):
                    heads[family].append(line)
            elif line.startswith(PREFIXES):
                name = family if family and line.startswith(family) else line.split("{")[0].split(" ")[0]
                samples.setdefault(name, []).append(line)
    lines = [line for family, found in samples.items() for line in (*heads.get(family, []), *found)]
    return "\n".join(lines) + "\n"
