"""The actor of `classify`: reads and decodes the files of a shard ahead of the classifier, classifies them, and writes
the shard's tables."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import ray
import torch

from cluster import storage, tables
from cluster.runtime.memory import release_memory
from cluster.scheduling.attempt_tracker import Attempt
from jobs.actors.sharded_output import SETTINGS
from jobs.actors.tokenizer import KILLS_WORKER
from jobs.inputs.audio_files import open_recording, rejecting
from jobs.inputs.classifiers import open_classifier_files
from soundstorm.audio.files import SAMPLE_RATE, RejectedAudio, read_audio, to_pcm16
from soundstorm.classification.classifiable import Unclassifiable, unclassifiable
from soundstorm.classification.windows import predict_in_windows
from soundstorm.schemas import CLASSIFIED, REJECTED, Reason

READERS = 4
"""Threads that read from object storage, to hide its latency."""
DECODERS = 4
"""Threads that decode for a classifier on a GPU, which is faster than one of them. On a CPU they would only compete
with the classifier, so files are decoded in its thread."""
PREFETCH_FILES = 2 * READERS
"""Files that are prefetched (with a GPU, also decoded)."""
MAX_BATCH_S = 240.0
"""Longest batch in seconds of audio; a longer file is decoded and classified in parts."""


@dataclass(slots=True)
class _ShardResult:
    """Result of a shard: rows of `classified` and of `rejected`."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class _Long:
    """A file that is longer than a batch."""

    file: BinaryIO
    duration_s: float
    """Seconds that are used."""


class ClassifierActor:
    """Actor that classifies the files of a shard.

    Args:
        files: a list of one reference to the files of the classifier.
        tracker: the attempt tracker.
        job: `parts_folder`, the URI of the folder with a folder of part files for each table; `top`, `window_s`,
            `max_duration_s`; `name_all`, whether silent and very short files are classified too; `limit_s`, the
            seconds after which a shard hangs; and `settings`, the digest of all settings of the run.
        device: where the classifier runs.
    """

    def __init__(self, files: list[ray.ObjectRef], tracker: Any, job: dict[str, Any], device: str) -> None:
        torch.set_num_threads(1)
        self.classifier = open_classifier_files(ray.get(files[0]), device)
        self.tracker, self.job = tracker, job
        self.readers = ThreadPoolExecutor(READERS, "readers")
        self.decoders = (
            ThreadPoolExecutor(DECODERS, "decoders", initializer=torch.set_num_threads, initargs=(1,))
            if device == "cuda"
            else None
        )

    def classify_shard(self, work: tuple[str, list[str]]) -> int:
        """Classify a shard: write the tables of classified and rejected files; returns the number of files.

        If the table exists, because another attempt or another run wrote it, nothing is written.
        """
        name, uris = work
        part_uri = storage.join(self.job["parts_folder"], "classified", name)
        if storage.exists(part_uri):
            return len(uris)
        found = _ShardResult()
        with Attempt(self.tracker, name, self.job["limit_s"]) as attempt:
            for portion in attempt.batches(uris):
                self._classify([uris[number] for number in portion], found)
            found.rejected += [
                _rejection(uri, Reason.KILLED_WORKER, KILLS_WORKER) for uri in uris if uri in attempt.poison
            ]
            metadata = {SETTINGS: self.job["settings"]}
            rejected_uri = storage.join(self.job["parts_folder"], "rejected", name)
            tables.write_table(rejected_uri, pa.Table.from_pylist(found.rejected, REJECTED), metadata)
            tables.write_table(part_uri, pa.Table.from_pylist(found.rows, CLASSIFIED), metadata)
        return len(uris)

    def _classify(self, uris: Sequence[str], found: _ShardResult) -> None:
        """Add the results of these files to `found`."""
        held: list[tuple[str, np.ndarray]] = []
        held_s = 0.0
        for uri, clip in self._decoded(uris):
            if isinstance(clip, RejectedAudio):
                found.rejected.append(_rejection(uri, clip.reason, clip.detail))
                continue
            if isinstance(clip, _Long):
                found.rows += self._rows(held)
                held, held_s = [], 0.0
                self._add_long(uri, clip, found)
                continue
            if held and held_s + len(clip) / SAMPLE_RATE > MAX_BATCH_S:
                found.rows += self._rows(held)
                held, held_s = [], 0.0
            held.append((uri, clip))
            held_s += len(clip) / SAMPLE_RATE
        found.rows += self._rows(held)

    def _rows(self, clips: Sequence[tuple[str, np.ndarray]]) -> list[dict[str, Any]]:
        """A row of `classified` for each clip; silent and very short clips have no categories, unless `name_all` is
        set."""
        longest = round(self.job["window_s"] * SAMPLE_RATE)
        notes = [unclassifiable(clip) for _, clip in clips]
        wanted = [number for number, note in enumerate(notes) if note is None or self.job["name_all"]]
        probability_XC = (
            predict_in_windows(self.classifier.predict, [clips[number][1] for number in wanted], longest)
            if wanted
            else ()
        )
        probabilities = dict(zip(wanted, probability_XC, strict=True))
        return [
            self._row(uri, len(clip) / SAMPLE_RATE, probabilities.get(number), notes[number])
            for number, (uri, clip) in enumerate(clips)
        ]

    def _row(
        self, uri: str, duration_s: float, probability_C: np.ndarray | None, note: Unclassifiable | None
    ) -> dict[str, Any]:
        """A row of `classified`."""
        row: dict[str, Any] = {
            "uri": uri,
            "duration_s": duration_s,
            "note": note,
            "categories": [],
            "probabilities": [],
        }
        if probability_C is None:
            return row
        best = np.argsort(-probability_C, kind="stable")[: self.job["top"]]
        named = {
            "categories": [self.classifier.categories[label] for label in best],
            "probabilities": probability_C[best].tolist(),
        }
        return row | named

    def _add_long(self, uri: str, long: _Long, found: _ShardResult) -> None:
        """Add the result of a long file, which is decoded and classified in parts."""
        count = -(-long.duration_s // self.job["window_s"])
        at_once = max(1, int(MAX_BATCH_S // self.job["window_s"]))
        longest = round(self.job["window_s"] * SAMPLE_RATE)
        total_C, num_done, is_silent = np.zeros(len(self.classifier.categories)), 0, True
        try:
            with long.file, rejecting(uri):
                while num_done < count:
                    windows = int(min(at_once, count - num_done))
                    start_s, part_s = num_done * long.duration_s / count, windows * long.duration_s / count
                    clip = to_pcm16(read_audio(long.file, max_duration_s=part_s, start_s=start_s).waveform)[
                        : windows * longest
                    ]
                    is_silent = is_silent and unclassifiable(clip) is not None
                    total_C += windows * predict_in_windows(self.classifier.predict, [clip], longest)[0]
                    num_done += windows
                    release_memory()
        except RejectedAudio as error:
            found.rejected.append(_rejection(uri, error.reason, error.detail))
        else:
            is_named = self.job["name_all"] or not is_silent
            note = Unclassifiable.SILENT if is_silent else None
            found.rows.append(self._row(uri, long.duration_s, total_C / count if is_named else None, note))

    def _decoded(self, uris: Sequence[str]) -> Iterator[tuple[str, np.ndarray | _Long | RejectedAudio]]:
        """Each file as int16 (N,) at 24 kHz, or why it is rejected, in order. A few are prefetched, and decoded if
        there are threads for it."""
        pending: deque[tuple[str, Callable[[], np.ndarray | _Long | RejectedAudio]]] = deque()
        for uri in uris:
            # A local file is there at once: a thread for it would cost more than it saves.
            read = (
                self.readers.submit(open_recording, uri).result
                if storage.is_remote(uri)
                else partial(open_recording, uri)
            )
            pending.append(
                (
                    uri,
                    partial(self._decode, uri, read)
                    if self.decoders is None
                    else self.decoders.submit(self._decode, uri, read).result,
                )
            )
            if len(pending) > PREFETCH_FILES:
                first, clip = pending.popleft()
                yield first, clip()
        for first, clip in pending:
            yield first, clip()

    def _decode(self, uri: str, read: Callable[[], BinaryIO]) -> np.ndarray | _Long | RejectedAudio:
        """The decoded file. Errors of the storage itself are raised: they are not the file's fault."""
        most_s = self.job["max_duration_s"]
        try:
            file = read()
            with rejecting(uri):
                recording = read_audio(file, max_duration_s=min(most_s, MAX_BATCH_S))
        except RejectedAudio as error:
            return error
        if min(recording.original_duration_s, most_s) > MAX_BATCH_S:
            return _Long(file, min(recording.original_duration_s, most_s))
        file.close()
        return to_pcm16(recording.waveform)


def _rejection(uri: str, reason: Reason, detail: str) -> dict[str, str]:
    return {"clip_id": uri, "uri": uri, "stage": "classify", "reason": reason.value, "detail": detail}
