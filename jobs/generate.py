"""New sound from a checkpoint: a pool of actors draws codes, decodes them and writes audio, part by part; the manifest
comes last.

The seed of a sample follows from `--seed`, its class and its number, and the samples of a part are always the same
ones. So a sample does not depend on which worker made it, a run that was stopped goes on where it was, and two runs at
once share the work.
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
from cluster.tables.stream import write_stream
from jobs.actors.generating_time import expected_time, seconds_a_clip
from jobs.actors.generator import Generator
from jobs.actors.sharded_output import Plan, actor_resources, complete, default_actors, settings_digest
from jobs.console.command import console, leave, say_note, start
from jobs.console.options import Allowed, Count, PoolOptions
from jobs.console.resume import told_again
from jobs.inputs.checkpoints import checkpoint_files, open_checkpoint
from jobs.inputs.codecs import choose_codec
from jobs.inputs.outputs_apart import require_no_class_folder
from soundstorm.audio.files import RejectedAudio, read_audio
from soundstorm.classification.cnn import load_classifier
from soundstorm.codec.codec import Codec
from soundstorm.data.categories import find_category
from soundstorm.errors import SoundStormError
from soundstorm.generation.reranking import PACKAGED_LISTENER, require_known
from soundstorm.model.checkpoints import Checkpoint
from soundstorm.model.config import SamplerSettings
from soundstorm.model.settings_file import parse_settings
from soundstorm.schemas import SAMPLES
from soundstorm.serialization.bundled import packaged

MIN_DURATION_S, MAX_DURATION_S = 0.05, 120.0
"""A clip of two minutes takes some four minutes of a core with the model in the package, and one of ten minutes would
take hours."""
DURATIONS = Allowed(
    f"{MIN_DURATION_S:g} to {MAX_DURATION_S:g} seconds (the time that a clip takes grows with the square of its length)"
)
TOLD_FROM_S = 10.0
"""Longer clips take so long that it is told before they are begun."""
MAX_SAMPLES = 1_000_000_000
FOLDERS_IN_URI = {"files": 4, "webdataset": 3}
"""Names in the URI of a sample below the output folder."""
SAMPLER_OPTIONS = (
    "order", "temperature", "final_temperature", "upper_temperature", "choice_temperature", "top_p", "typical_mass",
    "guidance", "upper_guidance", "timbre_spread", "candidates",
)  # fmt: skip


@dataclass(kw_only=True)
class Options(PoolOptions):
    """Generate sound from a checkpoint."""

    checkpoint: str | None = None
    """Output folder of `train`, or a checkpoint folder, path or URI; default: the one in the package, trained on
    ESC-10."""
    output_dir: str = "runs/samples"
    """Folder or s3:// prefix for audio/, parts/, samples.parquet and generate.json; failed.parquet, if parts could not
    be made."""
    num_samples: Count = 10
    """Clips to make in all."""
    duration: Annotated[float, Ge(MIN_DURATION_S), Le(MAX_DURATION_S), DURATIONS] = 5.0
    """Seconds of each clip, at most 120; the time that it takes grows with their square."""
    class_name: Annotated[str | None, tyro.conf.arg(name="class")] = None
    """Class to generate, by name (`Sea waves`, `sea-waves` and `sea_waves` are the same); default: all classes in equal
    shares."""
    seed: int = 0
    """The same seed gives the same clips."""
    prompt: str | None = None
    """Recording to continue (path or URI): each clip begins with its first --prompt-duration seconds."""
    prompt_duration: float = 1.0
    """Seconds of --prompt to keep."""
    format: Literal["flac", "wav"] = "flac"
    """Format of the audio files, 16-bit mono."""
    layout: Literal["files", "webdataset"] = "files"
    """files: one audio file a clip; webdataset: one tar a part, with an audio file and a JSON file for each clip."""
    config: str | None = None
    """JSON or TOML file whose table "sampler" replaces the checkpoint's settings, such as best.json of `tune decoding`;
    path or URI."""
    iterations: tuple[int, ...] | None = None
    """Decoding passes: one number for level 0, or one per level; default: the checkpoint's."""
    order: Literal["confidence", "even"] | None = None
    """Frames that a pass keeps: the surest, or such as lie evenly over the clip; default: the checkpoint's, as with the
    nine below."""
    temperature: float | None = None
    """Sampling temperature in the first pass of a level."""
    final_temperature: float | None = None
    """Sampling temperature in the last pass of a level; 0 takes the likeliest codes."""
    upper_temperature: float | None = None
    """Sampling temperature at all levels above 0; default: that of level 0."""
    choice_temperature: float | None = None
    """Gumbel noise on the confidence that ranks frames."""
    top_p: float | None = None
    """Sample from the likeliest codes that hold this probability."""
    typical_mass: float | None = None
    """Sample from the most typical codes that hold this probability."""
    guidance: float | None = None
    """Classifier-free guidance weight; 1 is unguided."""
    upper_guidance: float | None = None
    """Guidance weight at all levels above 0; default: that of level 0."""
    timbre_spread: float | None = None
    """How far a sample's timbre may lie from those of the training clips, where the model has timbres: 0 to 1."""
    candidates: int | None = None
    """Draws of each sample, of which the one is kept that a classifier takes most surely for its class."""
    listener: str | None = None
    """The classifier that chooses among --candidates, of `train-classifier`, path or URI; default: one in the package,
    for the classes of ESC-10."""
    codec: str | None = None
    """Weights of the codec; default: the one the checkpoint was trained with, from the package or the cache."""
    shard_size: Count = 8
    """Clips per part, generated as one batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_samples > MAX_SAMPLES:
            raise SoundStormError(
                f"--num-samples is {self.num_samples}: give at most {MAX_SAMPLES}; more with other --seed in other "
                "folders"
            )
        if not 0 < self.prompt_duration < self.duration and self.prompt is not None:
            raise SoundStormError(
                f"--prompt-duration is {self.prompt_duration}: give seconds, more than 0 and less than --duration "
                f"{self.duration}"
            )

    def sampler(self, defaults: SamplerSettings) -> SamplerSettings:
        """The checkpoint's settings with what --config, and then the command line, overrides."""
        if self.config is not None:
            chosen = parse_settings(storage.read_bytes(self.config), f"--config {self.config}")
            chosen.require("sampler")
            defaults = chosen.sampler_over(defaults)
        iterations = (
            self.iterations[0] if self.iterations is not None and len(self.iterations) == 1 else self.iterations
        )
        given = {"iterations": iterations} | {name: getattr(self, name) for name in SAMPLER_OPTIONS}
        return replace(defaults, **{name: value for name, value in given.items() if value is not None})


def run(options: Options) -> dict[str, Any]:
    """Generate what is missing of the samples asked for, then write the manifest."""
    require_no_class_folder(options.output_dir)
    storage.check_writable(options.output_dir)
    files = checkpoint_files(options.checkpoint)
    checkpoint = open_checkpoint(files, uri=options.checkpoint)
    labels = _labels(options, checkpoint)
    sampler = options.sampler(checkpoint.sampler)
    sampler.passes_of(checkpoint.model.config)
    weights, codec = choose_codec(
        options.codec, checkpoint.fingerprint, options.checkpoint or "the checkpoint in the package"
    )
    prompt = _prompt_codes(options, codec)
    listener = (
        _listener(options, [checkpoint.categories[label] for label in labels]) if sampler.candidates > 1 else None
    )
    settings = {
        "checkpoint_sha256": checkpoint.sha256,
        "codec_sha256": codec.fingerprint.sha256,
        "sampler": sampler.to_dict(),
        "listener_sha256": None if listener is None else hashlib.sha256(listener).hexdigest(),
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
    record = records.begin(options.output_dir, "generate", settings, overwrite=options.overwrite, outputs=outputs)
    if record is not None and _has_manifest(options):
        return told_again(options.output_dir, "generate", lambda: _summary(options, record.counts, "already done: "))
    plan = Plan(
        description="generate",
        output_dir=options.output_dir,
        folder="parts",
        num_items=options.num_samples,
        shard_size=options.shard_size,
        payload=lambda items: [(index, labels[index % len(labels)]) for index in items],
        settings=settings_digest(settings),
    )

    def prepare(info: ClusterInfo) -> Callable[[], Any]:
        if options.duration > TOLD_FROM_S and not info.num_gpus:
            clip_s = seconds_a_clip(checkpoint, sampler, math.ceil(options.duration * codec.frame_rate))
            actors = min(default_actors(info, options.num_actors), plan.num_parts)
            console.print(
                f"generate: {expected_time(clip_s, options.duration, options.num_samples, options.shard_size, actors)}"
            )
        return _actors(options, plan, info, (files, weights, listener), sampler, prompt)

    complete(plan, options.address, prepare, "make_part", options.num_actors)
    num_rows = _write_manifest(options, plan, codec, checkpoint, sampler)
    counts = {"samples": num_rows, "categories": min(num_rows, len(labels))}
    records.finish(options.output_dir, "generate", settings, counts)
    return _summary(options, counts, "")


def _write_manifest(
    options: Options, plan: Plan, codec: Codec, checkpoint: Checkpoint, sampler: SamplerSettings
) -> int:
    """Put the parts' tables together; returns the number of samples."""
    metadata = codec.fingerprint.to_metadata() | {"checkpoint_sha256": checkpoint.sha256, "seed": str(options.seed)}
    metadata |= {f"sampler_{name}": str(value) for name, value in sampler.to_dict().items()}
    return write_stream(
        _manifest_uri(options), SAMPLES, (_placed_here(options, rows) for rows in plan.tables(SAMPLES)), metadata
    )


def _placed_here(options: Options, rows: pa.Table) -> pa.Table:
    """`rows` with the URIs of the sound below this output folder: it may have been moved since an earlier run made
    them."""
    column, root = SAMPLES.get_field_index("uri"), storage.absolute(options.output_dir)
    places = [
        storage.join(root, *uri.rsplit("/", FOLDERS_IN_URI[options.layout])[1:]) for uri in rows["uri"].to_pylist()
    ]
    return rows.set_column(column, SAMPLES.field("uri"), pa.array(places, pa.string()))


def _labels(options: Options, checkpoint: Checkpoint) -> list[int]:
    if options.class_name is None:
        return list(range(len(checkpoint.categories)))
    return [find_category(options.class_name, checkpoint.categories, "--class", "the checkpoint")]


def _listener(options: Options, categories: list[str]) -> bytes:
    """The file of the classifier that chooses, which knows all of `categories`."""
    data = (
        packaged(PACKAGED_LISTENER).read_bytes() if options.listener is None else storage.read_bytes(options.listener)
    )
    where = "the classifier in the package" if options.listener is None else f"--listener {options.listener}"
    require_known(load_classifier(data, where=where), categories, where)
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
        say_note(f"--prompt {options.prompt} has only {recording.original_duration_s:.2f} s, all of it is kept")
    if codes.shape[1] >= math.ceil(round(options.duration * codec.sample_rate) / codec.hop):
        raise SoundStormError(
            f"--prompt-duration {options.prompt_duration} leaves nothing of --duration {options.duration} to "
            "generate: give less"
        )
    return codes


def _actors(
    options: Options,
    plan: Plan,
    info: ClusterInfo,
    model: tuple[dict[str, bytes], bytes, bytes | None],
    sampler: SamplerSettings,
    prompt: np.ndarray | None,
) -> Callable[[], Any]:
    """What creates an actor in the cluster; `model` holds the files of the checkpoint, of the codec, and of the
    classifier that chooses."""
    reference = ray.put(model)
    actor_class = ray.remote(Generator).options(**actor_resources(info))
    job = {
        "output_dir": storage.absolute(options.output_dir),
        "layout": options.layout,
        "format": options.format,
        "duration_s": options.duration,
        "seed": options.seed,
        "settings": plan.settings,
    }
    return lambda: actor_class.remote([reference], sampler, prompt, job, "cuda" if info.num_gpus else "cpu")


def _manifest_uri(options: Options) -> str:
    return storage.join(options.output_dir, "samples.parquet")


def _has_manifest(options: Options) -> bool:
    """Whether the manifest of a finished run is there and whole. If not, it is put together anew, for which lost parts
    are made again."""
    try:
        manifest = tables.table_info(_manifest_uri(options))
        return manifest.num_rows == options.num_samples and manifest.schema.equals(SAMPLES)
    except ClusterError as error:
        say_note(f"{error!s}; it is made again")
        return False


def _summary(options: Options, counts: dict[str, Any], prefix: str) -> dict[str, Any]:
    message = (
        f"{prefix}{counts['samples']} clips of {options.duration:g} s in {counts['categories']} classes, in "
        f"{options.output_dir}"
    )
    return {"message": message, "output_dir": options.output_dir, **counts}


if __name__ == "__main__":
    leave(start(Options, run))
