"""A checked request of `generate`: its options or recipe, with all files that they name."""

import hashlib
from dataclasses import dataclass
from typing import Any

from cluster import storage
from jobs.console.command import print_note
from jobs.generation.edit_rules import OPTIONS
from jobs.generation.options import STRENGTH, Options
from jobs.generation.recipes import ClipRecipe, SourceFile, read_recipe, recipe_of
from jobs.inputs.checkpoints import checkpoint_files, codec_beside, open_checkpoint
from jobs.inputs.classifiers import open_reranker
from jobs.inputs.codecs import choose_codec
from soundstorm.audio.files import Recording, RejectedAudio, read_audio, to_pcm16
from soundstorm.codec.codec import Codec
from soundstorm.data.categories import find_category
from soundstorm.editing.editor import KEPT_LEVELS
from soundstorm.editing.edits import Edit, Inpainting, New, Variation
from soundstorm.editing.regions import parse_region, sample_spans
from soundstorm.errors import SoundStormError
from soundstorm.model.checkpoints import Checkpoint
from soundstorm.model.config import SamplerSettings

MAX_EDITED_S = 600.0
"""Longest recording that can be edited, in seconds."""


@dataclass(kw_only=True, frozen=True)
class Request:
    """Everything that determines the output of a run."""

    options: Options
    """The options; those of the recipe, if there is one."""
    files: dict[str, bytes]
    """Files of the checkpoint, by name."""
    checkpoint: Checkpoint
    labels: list[int]
    """Labels of the classes; clip i has the class of label i modulo their number."""
    sampler: SamplerSettings
    codec_file: bytes
    codec: Codec
    reranker: bytes | None
    """File of the classifier that chooses among candidates."""
    edit: Edit
    duration_s: float
    parents: list[SourceFile]
    again: ClipRecipe | None = None
    """The recipe to reproduce."""

    def recipe(self, precision: str) -> dict[str, Any] | None:
        """The recipe that is written beside each clip; None if off."""
        if not self.options.recipes:
            return None
        return recipe_of(
            self.options,
            checkpoint_sha256=self.checkpoint.sha256,
            codec=self.codec,
            reranker=self.reranker,
            sampler=self.sampler,
            parents=[parent.to_dict() for parent in self.parents],
            precision=precision,
        )

    def items(self, numbers: range) -> list[tuple[int, int]]:
        """Number and label of each clip of a shard."""
        if self.again is not None:
            return [(self.again.number, self.labels[0])]
        return [(number, self.labels[number % len(self.labels)]) for number in numbers]

    def settings_of_edit(self) -> dict[str, Any]:
        """Settings of an edit for the record of a run; empty for new sound."""
        found: dict[str, Any] = {"loop": True} if self.options.loop else {}
        if self.options.edited is not None:
            option, _ = self.options.edited
            found |= {"edit": option.removeprefix("--"), "parent_sha256": self.parents[0].sha256}
            for name in ("region", "strength", "kept_levels"):
                found |= {} if getattr(self.options, name) in (None, ()) else {name: getattr(self.options, name)}
            found |= {"second_try": self.options.second_try} if self.options.region else {}
        return found | ({} if self.again is None else {"recipe_of": self.again.sha256})


def request_of(given: Options) -> Request:
    """Check the options or the recipe, and read the files that they name.

    Raises:
        SoundStormError, ClusterError: a file is missing or does not match.
    """
    again = None if given.recipe is None else read_recipe(given.recipe)
    options = given if again is None else again.options(given)
    files = checkpoint_files(options.checkpoint)
    checkpoint = open_checkpoint(files, uri=options.checkpoint)
    if again is not None:
        made_with = SourceFile.from_dict(again.recipe.checkpoint, again.where)
        made_with.require(checkpoint.sha256, "the checkpoint", again.where, "give that checkpoint with --checkpoint")
    labels = _labels(options, checkpoint)
    sampler = options.sampler(checkpoint.sampler) if again is None else again.sampler
    sampler.iterations_for(checkpoint.model.config)
    where = options.checkpoint or "the checkpoint in the package"
    codec_file, codec = choose_codec(options.codec, checkpoint.fingerprint, where, codec_beside(options.checkpoint))
    reranker = None
    if sampler.candidates > 1:
        reranker = open_reranker(options.listener, [checkpoint.categories[label] for label in labels])
    if again is not None and reranker is not None:
        chosen_by = SourceFile.from_dict(again.recipe.listener, again.where)
        digest = hashlib.sha256(reranker).hexdigest()
        chosen_by.require(digest, "the reranker", again.where, "give that classifier with --listener")
    edit, duration_s, parents = _edit(options, checkpoint, codec)
    if again is not None:
        for before, now in zip(again.parents, parents, strict=True):
            before.require(
                now.sha256, "the recording", again.where, "restore that recording, or give it with --recording"
            )
    return Request(
        options=options,
        files=files,
        checkpoint=checkpoint,
        labels=labels,
        sampler=sampler,
        codec_file=codec_file,
        codec=codec,
        reranker=reranker,
        edit=edit,
        duration_s=duration_s,
        parents=parents,
        again=again,
    )


def _labels(options: Options, checkpoint: Checkpoint) -> list[int]:
    if options.class_name is None:
        return list(range(len(checkpoint.categories)))
    return [find_category(options.class_name, checkpoint.categories, "--class", "the checkpoint")]


def _edit(options: Options, checkpoint: Checkpoint, codec: Codec) -> tuple[Edit, float, list[SourceFile]]:
    """The edit, the duration of the result in seconds, and the recordings it uses."""
    if options.loop and options.edited is None:
        OPTIONS.check_loop("--duration", options.duration)
    if options.prompt is not None:
        edit, source = _continued(options, options.prompt, codec)
        return edit, options.duration, [source]
    if options.edited is None:
        return New(loop=options.loop, steady=options.steady), options.duration, []
    option, uri = options.edited
    recording, source = _read(option, uri, "edited", MAX_EDITED_S)
    if recording.original_duration_s > MAX_EDITED_S:
        raise SoundStormError(
            f"{option} {uri} has {recording.original_duration_s:.0f} s: give a part of it of at most {MAX_EDITED_S:g} s"
        )
    if (recording.original_rate, recording.channels) != (codec.sample_rate, 1):
        print_note(
            f"{option} {uri} has {recording.original_rate} Hz and {recording.channels} "
            f"channel{'s' if recording.channels > 1 else ''}: the result has {codec.sample_rate} Hz and one"
        )
    for note in recording.notes:
        print_note(f"{option} {uri}: {note}")
    recording_N = to_pcm16(recording.waveform)
    duration_s = len(recording_N) / codec.sample_rate
    if options.loop:
        OPTIONS.check_loop(f"{option} {uri}", duration_s)
    if options.vary is not None:
        return _variation(options, recording_N, checkpoint), duration_s, [source]
    spans: list[tuple[int, int]] = []
    if options.region:
        regions = [parse_region(text) for text in options.region]
        try:
            spans = sample_spans(regions, len(recording_N), codec.sample_rate)
        except SoundStormError as error:
            raise SoundStormError(f"--{error}") from error
    inpainting = Inpainting(
        recording_N=recording_N, spans=tuple(spans), loop=options.loop, second_try=options.second_try
    )
    return inpainting, duration_s, [source]


def _variation(options: Options, recording_N: Any, checkpoint: Checkpoint) -> Variation:
    kept_levels = KEPT_LEVELS if options.kept_levels is None else options.kept_levels
    strength = STRENGTH if options.strength is None else options.strength
    OPTIONS.check_variation(strength, kept_levels, checkpoint.model.config.num_levels)
    return Variation(recording_N=recording_N, strength=strength, kept_levels=kept_levels, loop=options.loop)


def _continued(options: Options, uri: str, codec: Codec) -> tuple[New, SourceFile]:
    recording, source = _read("--prompt", uri, "continued", options.prompt_duration)
    prompt_QT = codec.encode_clips([recording.waveform])[0]
    if recording.original_duration_s < options.prompt_duration:
        print_note(f"--prompt {uri} has only {recording.original_duration_s:.2f} s: all of it is used")
    OPTIONS.check_prompt_frames(
        options.prompt_duration, options.duration, prompt_QT.shape[1], codec.hop, codec.sample_rate
    )
    return New(prompt_QT=prompt_QT, steady=options.steady), source


def _read(option: str, uri: str, done: str, longest_s: float) -> tuple[Recording, SourceFile]:
    """The first `longest_s` seconds of the recording at `uri`, and its source."""
    content = storage.read_bytes(uri)
    try:
        recording = read_audio(content, max_duration_s=longest_s)
    except RejectedAudio as error:
        raise SoundStormError(
            f"{option} {uri} cannot be {done} ({error}): give a WAV, FLAC, Ogg or MP3 file"
        ) from error
    return recording, SourceFile(uri=storage.absolute(uri), sha256=hashlib.sha256(content).hexdigest())
