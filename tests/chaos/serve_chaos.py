"""A replica of the endpoint is killed every five seconds for a minute, while clients ask: every request is answered,
and no answer is a wrong one.

`python tests/chaos/serve_chaos.py --seconds 60 --every 5 --clients 8`. Each answer must be the sound that
its recipe and its seed say; `--again` of them are made again by the code of `generate`, and must have the same bytes.
A request that is told to come again (429, 503) does so after the seconds that it was told.
"""

import argparse
import collections
import hashlib
import json
import os
import random
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["RAY_AUTH_MODE"] = "token"  # read when Ray is imported

import httpx

from cluster.runtime.connect import connect
from jobs.actors.generator import sample_seed
from jobs.generation.options import Options as Generating
from jobs.serving.model import open_model
from jobs.serving.serve import Options, served
from soundstorm.audio.files import encode_audio
from soundstorm.audio.limiter import within_full_scale
from tests.support.replicas import makers

ASKED = {"category": "rain", "duration_s": 1.0}


def main(arguments: argparse.Namespace) -> int:
    """Returns the exit code: 0 where nothing was lost and nothing was wrong."""
    statuses: collections.Counter[str] = collections.Counter()
    answers: dict[int, tuple[str, dict[str, Any]]] = {}
    wrong: list[str] = []
    killed: list[int] = []
    over = threading.Event()

    def client(first: int, url: str) -> None:
        with httpx.Client(base_url=url, timeout=300) as http:
            seed = first
            while not over.is_set():
                seed += arguments.clients
                while True:
                    response = http.post("/v1/generate", json=ASKED | {"seed": seed})
                    statuses[str(response.status_code)] += 1
                    if response.status_code not in (429, 503):
                        break
                    time.sleep(float(response.headers["retry-after"]))
                if response.status_code != 200:
                    wrong.append(f"seed {seed}: {response.status_code} {response.text[:200]}")
                    continue
                recipe = json.loads(response.headers["x-soundstorm-recipe"])
                sha256 = hashlib.sha256(response.content).hexdigest()
                if recipe["sha256"] != sha256 or recipe["seed"] != sample_seed(seed, recipe["label"], 0):
                    wrong.append(f"seed {seed}: not the sound of its recipe")
                answers[seed] = sha256, recipe

    with connect("local", num_cpus=arguments.num_cpus):
        options = Options(
            checkpoint=arguments.checkpoint, candidates=1, min_replicas=2, max_replicas=2, port=18_300, page=False
        )
        with served(options) as url, ThreadPoolExecutor(arguments.clients) as pool:
            asking = [pool.submit(client, first, url) for first in range(arguments.clients)]
            end_s = time.monotonic() + arguments.seconds
            while time.monotonic() < end_s:
                time.sleep(arguments.every)
                alive = [pid for pid in makers() if pid not in killed]
                if alive:
                    killed.append(random.choice(alive))
                    os.kill(killed[-1], signal.SIGKILL)
            over.set()
            for each in asking:
                each.result()
    wrong += not_made_again(answers, arguments)
    told = f"{len(answers)} sounds, statuses {dict(statuses)}, replicas killed {len(killed)}"
    print(f"{told}, wrong {len(wrong)}: {wrong[:5]}")
    return 1 if wrong or not killed else 0


def not_made_again(answers: dict[int, tuple[str, dict[str, Any]]], arguments: argparse.Namespace) -> list[str]:
    """What is wrong with some of the answers, made again here."""
    model = open_model(Generating(checkpoint=arguments.checkpoint, candidates=1), "cpu")
    wrong = []
    for seed in random.sample(sorted(answers), min(arguments.again, len(answers))):
        sha256, recipe = answers[seed]
        number = recipe["batch_size"]
        waveform = model.editor.new([recipe["label"]] * number, [recipe["seed"]] * number, 24_000)[0]
        if hashlib.sha256(encode_audio(within_full_scale(waveform), 24_000)).hexdigest() != sha256:
            wrong.append(f"seed {seed}: other bytes when made again")
    return wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="default: the one in the package")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--again", type=int, default=20)
    parser.add_argument("--num-cpus", type=int, default=4)
    sys.exit(main(parser.parse_args()))
