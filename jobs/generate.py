"""Generate sound from a checkpoint: a pool of actors samples codes, decodes them and writes audio, shard by shard. The
driver writes the manifest last.

The seed of a sample is derived from `--seed`, its class and its number, and a shard always has the same samples. A
sample therefore does not depend on the actor that made it, an interrupted run resumes where it stopped, and two runs
at once share the work.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import ray
import tyro
from annotated_types import Ge, Le

from cluster import storage, tables
from cluster.errors import ClusterError
from cluster.runtime.connect import ClusterInfo
from cluster.tables import stage_record as records
from cluster.tables.stream import write_table_stream
from jobs.actors.generating_time import expected_time, seconds_per_clip
from jobs.actors.generator import Generator
from jobs.actors.sharded_output import (
    ShardedOutput,
    actor_resources,
    default_actors,
    run_missing_shards,
    settings_digest,
)
from jobs.console.command import console, exit_process, print_note, run_command
from jobs.console.options import Allowed, Count, PoolOptions
from jobs.console.resume import finished_summary
from jobs.inputs.checkpoints import checkpoint_files, codec_beside, open_checkpoint
from jobs.inputs.codecs import choose_codec
from jobs.inputs.outputs_apart import check_not_class_folder
from soundstorm.audio.files import RejectedAudio, read_audio
from soundstorm.classification.cnn import load_classifier
from soundstorm.codec.codec import Codec
from soundstorm.data.categories import find_category
from soundstorm.errors import SoundStormError
from soundstorm.generation.reranking import PACKAGED_RERANKER, require_known_classes
from soundstorm.model.checkpoints import Checkpoint
from soundstorm.model.config import SamplerSettings
from soundstorm.model.settings_file import parse_settings
from soundstorm.schemas import SAMPLES
from soundstorm.serialization.bundled import packaged

MIN_DURATION_S, MAX_DURATION_S = 0.05, 120.0
"""With the model in the package, a clip of two minutes takes about four minutes on one core; a clip of ten minutes
would take hours."""
DURATIONS = Allowed(
    f"{MIN_DURATION_S:g} to {MAX_DURATION_S:g} seconds (the time to generate a clip grows with the square of its "
    "length)"
)
ANNOUNCE_TIME_FROM_S = 10.0
"""Longer clips are slow: the expected time is printed before the run."""
MAX_SAMPLES = 1_000_000_000
FOLDERS_IN_URI = {"files": 4, "webdataset": 3}
"""Path components of a sample's URI below the output folder, by layout."""
SAMPLER_OPTIONS = (
    "order", "temperature", "final_temperature", "upper_temperature", "choice_temperature", "top_p", "typical_mass",
    "guidance", "upper_guidance", "timbre_spread", "candidates",
)  # fmt: skip


@dataclass(kw_only=True)
class Options(PoolOptions):
    """Generate sound from a checkpoint."""

    checkpoint: str | None = None
    """Output folder of `train`, or a checkpoint folder, path or URI; default: the one in the package, trained on
    ESC-50."""
    output_dir: str = "runs/samples"
    """Folder or s3:// prefix for audio/, parts/, samples.parquet and generate.json; failed.parquet lists shards that
    failed."""
    num_samples: Count = 10
    """Total number of clips."""
    duration: Annotated[float, Ge(MIN_DURATION_S), Le(MAX_DURATION_S), DURATIONS] = 5.0
    """Length of each clip in seconds, at most 120; the time to generate it grows with the square of its length."""
    class_name: Annotated[str | None, tyro.conf.arg(name="class")] = None
    """Class to generate, by name (`Sea waves`, `sea-waves` and `sea_waves` are the same); default: all classes
    equally often."""
    seed: int = 0
    """The same seed gives the same clips."""
    prompt: str | None = None
    """Recording to continue, path or URI: each clip begins with its first --prompt-duration seconds."""
    prompt_duration: float = 1.0
    """How many seconds of --prompt each clip begins with."""
    format: Literal["flac", "wav"] = "flac"
    """Format of the audio files, 16-bit mono."""
    layout: Literal["files", "webdataset"] = "files"
    """files: one audio file per clip; webdataset: one tar archive per shard, with an audio file and a JSON file per
    clip."""
    config: str | None = None
    """JSON or TOML file, path or URI, whose table "sampler" overrides the checkpoint's settings, such as best.json of
    `tune decoding`."""
    iterations: tuple[int, ...] | None = None
    """Decoding iterations: one number for level 0, or one per level; default: the checkpoint's."""
    order: Literal["confidence", "even"] | None = None
    """Which frames an iteration keeps: the most confident, or evenly spaced ones; default of this and the nine options
    below: the checkpoint's."""
    temperature: float | None = None
    """Sampling temperature in the first iteration of a level."""
    final_temperature: float | None = None
    """Sampling temperature in the last iteration of a level; 0 takes the likeliest codes."""
    upper_temperature: float | None = None
    """Sampling temperature at all levels above 0; default: that of level 0."""
    choice_temperature: float | None = None
    """Scale of the Gumbel noise on the confidence by which frames are ranked."""
    top_p: float | None = None
    """Nucleus sampling: sample from the likeliest codes that together have this probability."""
    typical_mass: float | None = None
    """Typical sampling: sample from the most typical codes that together have this probability."""
    guidance: float | None = None
    """Classifier-free guidance weight; 1 is no guidance."""
    upper_guidance: float | None = None
    """Guidance weight at all levels above 0; default: that of level 0."""
    timbre_spread: float | None = None
    """How far a sample's timbre may lie from those of the training clips, 0 to 1, if the model is conditioned on
    timbre."""
    candidates: int | None = None
    """Generate this many candidates of each sample and keep the one for whose class the classifier scores highest."""
    listener: str | None = None
    """Classifier that reranks the --candidates, from `train-classifier`, path or URI; default: the one in the package,
    for the classes of ESC-50."""
    codec: str | None = None
    """Weights of the codec, path or URI; default: the codec that the checkpoint was trained with, from the package or
    the cache."""
    shard_size: Count = 8
    """Clips per shard, generated as one batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_samples > MAX_SAMPLES:
            raise SoundStormError(
                f"--num-samples is {self.num_samples}: give at most {MAX_SAMPLES}; for more, run again with another "
                "--seed and --output-dir"
            )
        if not 0 < self.prompt_duration < self.duration and self.prompt is not None:
            raise SoundStormError(
                f"--prompt-duration is {self.prompt_duration}: give more than 0 and less than {self.duration} seconds, "
                "which is --duration"
            )

    def sampler(self, defaults: SamplerSettings) -> SamplerSettings:
        """The checkpoint's settings, overridden by --config and then by the command line."""
        if self.config is not None:
            file_settings = parse_settings(storage.read_bytes(self.config), f"--config {self.config}")
            file_settings.require("sampler")
            defaults = file_settings.sampler_over(defaults)
        iterations = (
            self.iterations[0] if self.iterations is not None and len(self.iterations) == 1 else self.iterations
        )
        options = {"iterations": iterations} | {name: getattr(self, name) for name in SAMPLER_OPTIONS}
        return replace(defaults, **{name: value for name, value in options.items() if value is not None})


def run(options: Options) -> dict[str, Any]:
    """Generate the samples that are missing, then write the manifest."""
    check_not_class_folder(options.output_dir)
    storage.check_writable(options.output_dir)
    files = checkpoint_files(options.checkpoint)
    checkpoint = open_checkpoint(files, uri=options.checkpoint)
    labels = _labels(options, checkpoint)
    sampler = options.sampler(checkpoint.sampler)
    sampler.iterations_for(checkpoint.model.config)
    where = options.checkpoint or "the checkpoint in the package"
    weights, codec = choose_codec(options.codec, checkpoint.fingerprint, where, codec_beside(options.checkpoint))
    prompt = _prompt_codes(options, codec)
    reranker = (
        _reranker(options, [checkpoint.categories[label] for label in labels]) if sampler.candidates > 1 else None
    )
    settings = {
        "checkpoint_sha256": checkpoint.sha256,
        "codec_sha256": codec.fingerprint.sha256,
        "sampler": sampler.to_dict(),
        "listener_sha256": None if reranker is None else hashlib.sha256(reranker).hexdigest(),
        "num_samples": options.num_samples,
        "duration_s": options.duration,
        "class": None if options.class_name is None else checkpoint.categories[labels[0]],
        "seed": options.seed,
        "prompt_sha256": None if prompt is None else hashlib.sha256(prompt.tobytes()).hexdigest(),
        "format": options.format,
        "layout": options.layout,
        "shard_size": options.shard_size,
    }
    outputs = ("audio", "parts", "samples.parquet", "failed.parquet")
    record = records.start_stage(options.output_dir, "generate", settings, overwrite=options.overwrite, outputs=outputs)
    if record is not None and _has_manifest(options):
        return finished_summary(
            options.output_dir, "generate", lambda: _summary(options, record.counts, "already done: ")
        )
    output = ShardedOutput(
        description="generate",
        output_dir=options.output_dir,
        folder="parts",
        num_items=options.num_samples,
        shard_size=options.shard_size,
        payload=lambda items: [(index, labels[index % len(labels)]) for index in items],
        settings=settings_digest(settings),
    )

    def prepare(info: ClusterInfo) -> Callable[[], Any]:
        if options.duration > ANNOUNCE_TIME_FROM_S and not info.num_gpus:
            clip_s = seconds_per_clip(checkpoint, sampler, math.ceil(options.duration * codec.frame_rate))
            actors = min(default_actors(info, options.num_actors), output.num_shards)
            console.print(
                f"generate: {expected_time(clip_s, options.duration, options.num_samples, options.shard_size, actors)}"
            )
        return _actors(options, output, info, (files, weights, reranker), sampler, prompt)

    run_missing_shards(output, options.address, prepare, "generate_shard", options.num_actors)
    num_rows = _write_manifest(options, output, codec, checkpoint, sampler)
    counts = {"samples": num_rows, "categories": min(num_rows, len(labels))}
    records.complete_stage(options.output_dir, "generate", settings, counts)
    return _summary(options, counts, "")


def _write_manifest(
    options: Options, output: ShardedOutput, codec: Codec, checkpoint: Checkpoint, sampler: SamplerSettings
) -> int:
    """Write the manifest from the shards' tables; returns the number of samples."""
    metadata = codec.fingerprint.to_metadata() | {"checkpoint_sha256": checkpoint.sha256, "seed": str(options.seed)}
    metadata |= {f"sampler_{name}": str(value) for name, value in sampler.to_dict().items()}
    return write_table_stream(
        _manifest_uri(options),
        SAMPLES,
        (_with_current_uris(options, rows) for rows in output.tables(SAMPLES)),
        metadata,
    )


def _with_current_uris(options: Options, rows: pa.Table) -> pa.Table:
    """`rows` with the URIs of the audio below this output folder, which may have been moved since an earlier run wrote
    them."""
    column, root = SAMPLES.get_field_index("uri"), storage.absolute(options.output_dir)
    uris = [storage.join(root, *uri.rsplit("/", FOLDERS_IN_URI[options.layout])[1:]) for uri in rows["uri"].to_pylist()]
    return rows.set_column(column, SAMPLES.field("uri"), pa.array(uris, pa.string()))


def _labels(options: Options, checkpoint: Checkpoint) -> list[int]:
    if options.class_name is None:
        return list(range(len(checkpoint.categories)))
    return [find_category(options.class_name, checkpoint.categories, "--class", "the checkpoint")]


def _reranker(options: Options, categories: list[str]) -> bytes:
    """Content of the reranker's file; raises SoundStormError unless it knows all of `categories`."""
    data = (
        packaged(PACKAGED_RERANKER).read_bytes() if options.listener is None else storage.read_bytes(options.listener)
    )
    where = "the classifier in the package" if options.listener is None else f"--listener {options.listener}"
    require_known_classes(load_classifier(data, where=where), categories, where)
    return data


def _prompt_codes(options: Options, codec: Codec) -> np.ndarray | None:
    if options.prompt is None:
        return None
    try:
        with storage.open_file(options.prompt) as file:
            recording = read_audio(file, max_duration_s=options.prompt_duration)
    except RejectedAudio as error:
        raise SoundStormError(
            f"--prompt {options.prompt} cannot be continued ({error}): give a WAV, FLAC, Ogg or MP3 file"
        ) from error
    codes = codec.encode_clips([recording.waveform])[0]
    if recording.original_duration_s < options.prompt_duration:
        print_note(f"--prompt {options.prompt} is only {recording.original_duration_s:.2f} s long: all of it is used")
    if codes.shape[1] >= math.ceil(round(options.duration * codec.sample_rate) / codec.hop):
        raise SoundStormError(
            f"--prompt-duration {options.prompt_duration} leaves nothing of --duration {options.duration} to "
            "generate: give a shorter --prompt-duration"
        )
    return codes


def _actors(
    options: Options,
    output: ShardedOutput,
    info: ClusterInfo,
    model: tuple[dict[str, bytes], bytes, bytes | None],
    sampler: SamplerSettings,
    prompt: np.ndarray | None,
) -> Callable[[], Any]:
    """A function that creates an actor in the cluster.

    Args:
        options: of the job.
        output: the sharded output that the actors write.
        info: the cluster.
        model: content of the checkpoint's files, the codec's file and the reranker's file.
        sampler: how codes are sampled.
        prompt: codes (Q, T) that every clip begins with.
    """
    reference = ray.put(model)
    actor_class = ray.remote(Generator).options(**actor_resources(info))
    job = {
        "output_dir": storage.absolute(options.output_dir),
        "layout": options.layout,
        "format": options.format,
        "duration_s": options.duration,
        "seed": options.seed,
        "settings": output.settings,
    }
    return lambda: actor_class.remote([reference], sampler, prompt, job, "cuda" if info.num_gpus else "cpu")


def _manifest_uri(options: Options) -> str:
    return storage.join(options.output_dir, "samples.parquet")


def _has_manifest(options: Options) -> bool:
    """Whether the manifest of a finished run exists and is complete. If not, the run rewrites it and regenerates
    missing shards."""
    try:
        manifest = tables.table_info(_manifest_uri(options))
        return manifest.num_rows == options.num_samples and manifest.schema.equals(SAMPLES)
    except ClusterError as error:
        print_note(f"{error!s}; it is written again")
        return False


def _summary(options: Options, counts: dict[str, Any], prefix: str) -> dict[str, Any]:
    message = (
        f"{prefix}{counts['samples']} clips of {options.duration:g} s in {counts['categories']} classes, in "
        f"{options.output_dir}"
    )
    return {"message": message, "output_dir": options.output_dir, **counts}


if __name__ == "__main__":
    exit_process(run_command(Options, run))
