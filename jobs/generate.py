"""Generate sound from a checkpoint: a pool of actors samples codes, decodes them and writes audio, shard by shard. The
driver writes the manifest last.

The seed of a sample is derived from `--seed`, its class and its number, and a shard always has the same samples. A
sample therefore does not depend on the actor that made it, an interrupted run resumes where it stopped, and two runs
at once share the work. A single shard needs no actor: the command makes it itself.
"""

import hashlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import torch

from cluster import storage, tables
from cluster.errors import ClusterError
from cluster.runtime.connect import ClusterInfo, names_cluster
from cluster.runtime.resources import usable_cpus
from cluster.tables import stage_record as records
from cluster.tables.stream import write_table_stream
from jobs.actors.generating_time import expected_time, seconds_per_clip
from jobs.actors.generator import Generator, ModelFiles
from jobs.actors.job_precision import JobPrecision, job_precision
from jobs.actors.sharded_output import (
    ShardedOutput,
    actor_resources,
    actor_threads,
    default_actors,
    run_in_process,
    run_missing_shards,
    settings_digest,
    with_nulls,
)
from jobs.console.command import console, exit_process, print_note, run_command
from jobs.console.resume import Stage, run_once
from jobs.generation.options import Options
from jobs.generation.recipes import ClipRecipe
from jobs.generation.request import Request, request_of
from jobs.inputs.outputs_apart import check_not_class_folder
from soundstorm.editing.edits import New
from soundstorm.errors import SoundStormError
from soundstorm.generation.windows import OVERLAP_S, WINDOW_S, WindowSize
from soundstorm.optimization.precision import Precision
from soundstorm.schemas import SAMPLES

__all__ = ["Options", "run"]

STAGE, METHOD = "generate", "generate_shard"

FOLDERS_IN_URI = {"files": 4, "webdataset": 3}
"""Path components of a sample's URI below the output folder, by layout."""


def run(options: Options) -> dict[str, Any]:
    """Generate the samples that are missing, then write the manifest. A single shard on a machine without a GPU is
    generated in this process, unless a cluster or a number of actors is given."""
    check_not_class_folder(options.output_dir)
    storage.check_writable(options.output_dir)
    request = request_of(options)
    options = request.options
    in_process = (
        options.count <= options.shard_size
        and options.num_actors is None
        and not names_cluster(options.address)
        and not torch.cuda.is_available()
    )
    with job_precision(options.precision, options, STAGE, in_process=in_process) as precision:
        settings = _settings(request) | precision.settings
        stage = Stage(STAGE, options, settings, ("audio", "parts", "samples.parquet", "failed.parquet"))
        return run_once(
            stage,
            lambda: _generate(request, settings, precision, in_process),
            partial(_summary, request),
            is_complete=lambda counts: _has_manifest(options),
        )


def _generate(request: Request, settings: dict[str, Any], precision: JobPrecision, in_process: bool) -> dict[str, Any]:
    """Generate the samples that are missing, and write the manifest; returns the counts."""
    options = request.options
    output = ShardedOutput(
        description="generate",
        output_dir=options.output_dir,
        folder="parts",
        num_items=options.count,
        shard_size=options.shard_size,
        payload=request.items,
        settings=settings_digest(settings),
    )

    def prepare(info: ClusterInfo) -> Callable[[], Any]:
        if not info.num_gpus:
            _print_expected_time(request, output, default_actors(info, options.num_actors))
        return _actors(request, output, info, precision.of_actors(info))

    if in_process:
        threads = torch.get_num_threads()
        try:
            run_in_process(output, lambda: _generator(request, output, precision.of_this_process()), METHOD)
        finally:
            torch.set_num_threads(threads)
    else:
        run_missing_shards(output, options.address, prepare, METHOD, options.num_actors)
    num_rows = _write_manifest(request, output)
    if request.again is not None:
        _require_same_bytes(request.again, options)
    return {"samples": num_rows, "categories": min(num_rows, len(request.labels))}


def _print_expected_time(request: Request, output: ShardedOutput, num_actors: int) -> None:
    """Print how long clips of several windows take on CPUs."""
    options = request.options
    if request.duration_s > WINDOW_S and not request.edit.keeps_recording:
        clip_s = seconds_per_clip(
            request.checkpoint,
            request.sampler,
            math.ceil(request.duration_s * request.codec.frame_rate),
            WindowSize.at_rate(request.codec.frame_rate),
        )
        actors = min(num_actors, output.num_shards)
        expected = expected_time(clip_s, request.duration_s, options.count, options.shard_size, actors)
        console.print(f"generate: {expected}")


def _settings(request: Request) -> dict[str, Any]:
    """All settings that the output depends on."""
    options, prompt_QT = request.options, request.edit.prompt_QT if isinstance(request.edit, New) else None
    settings: dict[str, Any] = {
        "checkpoint_sha256": request.checkpoint.sha256,
        "codec_sha256": request.codec.fingerprint.sha256,
        "sampler": request.sampler.to_dict(),
        "listener_sha256": None if request.reranker is None else hashlib.sha256(request.reranker).hexdigest(),
        "num_samples": options.count,
        "duration_s": request.duration_s,
        "class": None if options.class_name is None else request.checkpoint.categories[request.labels[0]],
        "seed": options.seed,
        "prompt_sha256": None if prompt_QT is None else hashlib.sha256(prompt_QT.tobytes()).hexdigest(),
        "format": options.format,
        "layout": options.layout,
        "shard_size": options.shard_size,
    }
    if request.duration_s > WINDOW_S:
        settings["windows_s"] = [WINDOW_S, OVERLAP_S]
        if isinstance(request.edit, New):
            settings["steady"] = request.edit.steady
    return settings | request.settings_of_edit()


def _require_same_bytes(again: ClipRecipe, options: Options) -> None:
    """Compare the clip with its recipe.

    Raises:
        SoundStormError: its bytes differ.
    """
    [row] = tables.read_table(_manifest_uri(options))[0].to_pylist()
    if row["sha256"] == again.sha256:
        print_note(f"{row['uri']} is identical to the clip of {again.where}")
        return
    now = records.versions()
    before = again.recipe.versions
    differing = [f"{name} {before.get(name)}, now {now.get(name)}" for name in now if before.get(name) != now[name]]
    raise SoundStormError(
        f"{row['uri']} has SHA-256 {row['sha256'][:12]}, but {again.where} has {again.sha256[:12]}: generated with "
        f"{'; '.join(differing) or 'the same versions, on another kind of processor'}; the clip is kept"
    )


def _write_manifest(request: Request, output: ShardedOutput) -> int:
    """Write the manifest from the shards' tables; returns the number of samples."""
    options = request.options
    metadata = request.codec.fingerprint.to_metadata()
    metadata |= {"checkpoint_sha256": request.checkpoint.sha256, "seed": str(options.seed)}
    metadata |= {f"sampler_{name}": str(value) for name, value in request.sampler.to_dict().items()}
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


def _actors(request: Request, output: ShardedOutput, info: ClusterInfo, precision: Precision) -> Callable[[], Any]:
    """A function that creates an actor in the cluster."""
    reference = ray.put(_model_files(request))
    edit = ray.put(request.edit)
    threads = actor_threads(info, request.options.num_actors, output.num_shards, _most_threads(request))
    actor_class = ray.remote(Generator).options(**actor_resources(info, threads))
    job, device = _job(request, output, precision, threads), "cuda" if info.num_gpus else "cpu"
    return lambda: actor_class.remote([reference], request.sampler, edit, job, device)


def _generator(request: Request, output: ShardedOutput, precision: Precision) -> Generator:
    """What an actor does, in this process."""
    _print_expected_time(request, output, num_actors=1)
    threads = min(_most_threads(request), usable_cpus())
    job = _job(request, output, precision, threads)
    return Generator(_model_files(request), request.sampler, request.edit, job, "cpu")


def _model_files(request: Request) -> ModelFiles:
    return request.files, request.codec_file, request.reranker


def _most_threads(request: Request) -> int:
    """The most threads that can generate a shard: they share the candidates."""
    return 1 if request.reranker is None else request.sampler.candidates


def _job(request: Request, output: ShardedOutput, precision: Precision, threads: int) -> dict[str, Any]:
    """What a `Generator` needs to know of the run."""
    options = request.options
    return {
        "output_dir": storage.absolute(options.output_dir),
        "layout": options.layout,
        "format": options.format,
        "duration_s": request.duration_s,
        "seed": options.seed,
        "own_seed": None if request.again is None else request.again.seed,
        "batch_size": 1 if request.again is None else request.again.batch_size,
        "recipe": request.recipe(precision),
        "precision": precision,
        "settings": output.settings,
        "threads": threads,
    }


def _manifest_uri(options: Options) -> str:
    return storage.join(options.output_dir, "samples.parquet")


def _has_manifest(options: Options) -> bool:
    """Whether the manifest of a finished run exists and is complete. If not, the run rewrites it and regenerates
    missing shards."""
    try:
        manifest = tables.table_info(_manifest_uri(options))
        return manifest.num_rows == options.count and with_nulls(manifest.schema.empty_table(), SAMPLES).schema.equals(
            SAMPLES
        )
    except ClusterError as error:
        print_note(f"{error!s}; it is recreated")
        return False


def _summary(request: Request, counts: dict[str, Any], prefix: str) -> dict[str, Any]:
    options = request.options
    made = f"{counts['samples']} clips of {request.duration_s:g} s in {counts['categories']} classes"
    if options.edited is not None:
        option, uri = options.edited
        done = {"--inpaint": "in-painted", "--vary": "varied"}[option]
        made = f"{uri}, {done} {counts['samples']} time{'s' if counts['samples'] > 1 else ''}"
    return {"message": f"{prefix}{made}, in {options.output_dir}", "output_dir": options.output_dir, **counts}


if __name__ == "__main__":
    exit_process(run_command(Options, run))
