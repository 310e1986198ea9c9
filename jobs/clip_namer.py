"""The actor behind `classify`: reads and decodes the files of a part ahead of the classifier, names them, and writes the part's tables."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from cluster import storage, tables
from cluster.attempts import Attempt
from jobs.classifiers import open_classifier_files
from jobs.parts import SETTINGS
from jobs.shard_encoder import DEADLY, read_recording
from soundstorm.audio import SAMPLE_RATE, RejectedAudio, read_audio, to_pcm16
from soundstorm.schemas import CLASSIFIED, REJECTED, Reason
from soundstorm.windows import predict_in_windows

READERS = 4
"""Threads that read from object storage, which answers late."""
DECODERS = 4
"""Threads that decode beside a classifier on a GPU, which hears faster than one of them decodes. On a CPU they would only wait for each other and for
the classifier, so there a file is decoded where it is named."""
READ_AHEAD = 2 * READERS
"""Files that are read, and on a GPU decoded, before they are wanted."""
LARGE_BYTES = 8_000_000
"""Of files larger than this one is decoded at a time: an hour of sound takes gigabytes."""
HEARD_TOGETHER_S = 240.0
"""Seconds of sound that the classifier is given at once at most, but for a file that is longer."""


@dataclass(slots=True)
class _Found:
    """What became of a part's files."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, str]] = field(default_factory=list)


class ClipNamer:
    """An actor that names the files of a part.

    Args:
        files: one reference, to the files of the classifier.
        ledger: of `cluster.attempts`.
        job: `parts_folder`, the URI of the folder for a folder of parts of each table; `top`, `window_s`, `max_duration_s`, `limit_s`, the seconds
            after which a part hangs; and `settings`, the digest of all settings of the run.
        device: where the classifier runs.
    """

    def __init__(self, files: list[ray.ObjectRef], ledger: Any, job: dict[str, Any], device: str) -> None:
        torch.set_num_threads(1)
        self.classifier = open_classifier_files(ray.get(files[0]), device)
        self.ledger, self.job = ledger, job
        self.readers = ThreadPoolExecutor(READERS, "readers")
        self.decoders = ThreadPoolExecutor(DECODERS, "decoders", initializer=torch.set_num_threads, initargs=(1,)) if device == "cuda" else None
        self.large = threading.Lock()

    def name_part(self, work: tuple[str, list[str]]) -> int:
        """Write the categories of files, and the rejected; returns how many files.

        A part that is there, made by another attempt or another run, is left alone.
        """
        name, uris = work
        part_uri = storage.join(self.job["parts_folder"], "classified", name)
        if storage.exists(part_uri):
            return len(uris)
        found = _Found()
        with Attempt(self.ledger, name, self.job["limit_s"]) as attempt:
            for portion in attempt.portions(uris):
                self._name([uris[number] for number in portion], found)
            found.rejected += [_rejection(uri, Reason.KILLED_WORKER, DEADLY) for uri in uris if uri in attempt.deadly]
            metadata = {SETTINGS: self.job["settings"]}
            rejected_uri = storage.join(self.job["parts_folder"], "rejected", name)
            tables.write_table(rejected_uri, pa.Table.from_pylist(found.rejected, REJECTED), metadata)
            tables.write_table(part_uri, pa.Table.from_pylist(found.rows, CLASSIFIED), metadata)
        return len(uris)

    def _name(self, uris: Sequence[str], found: _Found) -> None:
        """Add what becomes of these files to `found`."""
        held: list[tuple[str, np.ndarray]] = []
        held_s = 0.0
        for uri, clip in self._decoded(uris):
            if isinstance(clip, RejectedAudio):
                found.rejected.append(_rejection(uri, clip.reason, clip.detail))
                continue
            if held and held_s + len(clip) / SAMPLE_RATE > HEARD_TOGETHER_S:
                found.rows += self._rows(held)
                held, held_s = [], 0.0
            held.append((uri, clip))
            held_s += len(clip) / SAMPLE_RATE
        found.rows += self._rows(held)

    def _rows(self, clips: Sequence[tuple[str, np.ndarray]]) -> list[dict[str, Any]]:
        """A row of `classified` for each clip."""
        longest = round(self.job["window_s"] * SAMPLE_RATE)
        probability_XC = predict_in_windows(self.classifier.predict, [clip for _, clip in clips], longest)
        rows = []
        for (uri, clip), probability_C in zip(clips, probability_XC, strict=True):
            best = np.argsort(-probability_C, kind="stable")[: self.job["top"]]
            named = {"categories": [self.classifier.categories[label] for label in best], "probabilities": probability_C[best].tolist()}
            rows.append({"uri": uri, "duration_s": len(clip) / SAMPLE_RATE} | named)
        return rows

    def _decoded(self, uris: Sequence[str]) -> Iterator[tuple[str, np.ndarray | RejectedAudio]]:
        """Each file as int16 (N,) at 24 kHz, or why there is none, in order; a few are read ahead, and decoded where there are threads for it."""
        pending: deque[tuple[str, Callable[[], np.ndarray | RejectedAudio]]] = deque()
        for uri in uris:
            # A local file is there at once: a thread for it would cost more than it saves.
            read = self.readers.submit(read_recording, uri).result if storage.is_remote(uri) else partial(read_recording, uri)
            pending.append((uri, partial(self._decode, read) if self.decoders is None else self.decoders.submit(self._decode, read).result))
            if len(pending) > READ_AHEAD:
                first, clip = pending.popleft()
                yield first, clip()
        for first, clip in pending:
            yield first, clip()

    def _decode(self, read: Callable[[], bytes]) -> np.ndarray | RejectedAudio:
        """What a file that is being read holds. Storage that is out of reach is raised: the file is not to blame."""
        try:
            content = read()
            if len(content) <= LARGE_BYTES:
                return to_pcm16(read_audio(content, max_duration_s=self.job["max_duration_s"]).waveform)
            with self.large:
                return to_pcm16(read_audio(content, max_duration_s=self.job["max_duration_s"]).waveform)
        except RejectedAudio as error:
            return error


def _rejection(uri: str, reason: Reason, detail: str) -> dict[str, str]:
    return {"clip_id": uri, "uri": uri, "stage": "classify", "reason": reason.value, "detail": detail}
