"""What Ray's nodes publish for Prometheus about Serve and about us, as one text."""

import logging
import urllib.error
import urllib.request
from collections.abc import Iterable

import ray

PREFIXES = ("ray_serve_", "ray_soundstorm_")
TIMEOUT_S = 3.0
MOST_BYTES = 64 << 20
logger = logging.getLogger(__name__)


def published_metrics() -> str:
    """The figures of all nodes that answer, in Prometheus' format; a node that does not answer is left out."""
    texts = []
    for node in ray.nodes():
        if not node["Alive"] or not node.get("MetricsExportPort"):
            continue
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
                texts.append(answer.read(MOST_BYTES).decode("utf-8", "replace"))
        except (OSError, urllib.error.URLError) as error:
            logger.warning("the metrics of %s are not there: %s", url, error)
    return merged(texts)


def merged(texts: Iterable[str]) -> str:
    """The figures whose name has one of PREFIXES, each family once with the figures of all texts."""
    heads: dict[str, list[str]] = {}
    figures: dict[str, list[str]] = {}
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
                figures.setdefault(name, []).append(line)
    lines = [line for family, found in figures.items() for line in (*heads.get(family, []), *found)]
    return "\n".join(lines) + "\n"
