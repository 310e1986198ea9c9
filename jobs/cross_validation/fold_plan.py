"""Plan of a cross-validation: for each test fold, a codec, tokens and a generator that were not trained on that fold.

Each step is a job with its own folder. An available codec or generator is used if it was not trained on the fold. If
every available codec was, a codec is fitted to synthetic sounds alone, into which no fold can leak; all such folds
share it and its tokens. Generators and teachers are trained separately for each fold.
"""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from cluster import storage
from jobs.console.command import print_note
from jobs.inputs.checkpoints import checkpoint_files, codec_beside, open_checkpoint
from jobs.inputs.classifiers import CODEC_FILE
from jobs.inputs.codecs import choose_codec
from jobs.inputs.provenance import test_of
from soundstorm.codec.files import provenance_of_codec
from soundstorm.data.datasets import Index
from soundstorm.errors import SoundStormError
from soundstorm.serialization.leakage import Learned, Test, judge
from soundstorm.serialization.provenance import Provenance, TrainedOn

SOUNDSTORM = "soundstorm"
CODEC_SUFFIX = ".weights"
SYNTHETIC = "synthetic"


@dataclass(kw_only=True, frozen=True)
class Settings:
    """The settings that the result of each fold depends on."""

    dataset: str
    location: str
    """Folder of the recordings."""
    clips: str = ""
    """Digest of the index of the recordings."""
    strict_folds: bool = False
    """Whether, of each source recording with clips in two folds, the smaller side was left out."""
    model: str
    mode: str | None
    preset: str | None
    epochs: int | None
    batch_size: int | None
    lr: float | None
    seed: int | None
    weights: str | None
    codec: str | None
    checkpoint: str | None
    packaged: bool
    generator_preset: str
    pretrain_epochs: int | None
    taught: bool
    teacher_epochs: int | None
    views: int
    test_views: int
    max_rejected: float
    stages: str | None
    """Folder of results that several runs share; None: the output folder of the run."""
    num_workers: int | None
    device: str
    cache: bool
    cache_dir: str | None
    allow_leak: bool

    def identity(self) -> dict[str, Any]:
        """The settings for the record: all except those that do not change the result."""
        # the digest of the clips covers strict folds
        excluded = ["location", "device", "cache", "cache_dir", "stages", "strict_folds"]
        excluded += [] if self.model == SOUNDSTORM else ["teacher_epochs"]
        return {name: value for name, value in asdict(self).items() if name not in excluded} | {
            "data_dir": self.location
        }

    def classifier_options(self) -> dict[str, Any]:
        """Options of `train-classifier` as requested; None: its default."""
        of_training = ("model", "mode", "preset", "epochs", "batch_size", "lr", "seed", "weights", "test_views")
        names = (*of_training, "cache", "cache_dir")
        return {name: getattr(self, name) for name in names} | {"allow_leak": self.allow_leak or None}

    @property
    def token_views(self) -> int:
        """Number of views to tokenize: only a generator is trained on tokens; a classifier encodes recordings
        itself."""
        return self.views if self.is_pretrained else 0

    @property
    def is_pretrained(self) -> bool:
        """Whether the classifier starts from a generator."""
        return self.model == SOUNDSTORM and self.mode not in ("codec", "scratch")


@dataclass(kw_only=True, frozen=True)
class PretrainedInputs:
    """A codec, its tokens and perhaps a generator, which may be used for a fold."""

    codec: str
    """Weights of the codec, path or URI."""
    codec_name: str
    codec_trained_on: Provenance
    tokens: str
    """Folder of the tokens of all clips, path or URI."""
    checkpoint: str | None = None
    """The generator; None: the one in the package."""
    generator_trained_on: Provenance | None = None
    """None: there is no generator for this codec."""


@dataclass(kw_only=True, frozen=True)
class FoldInputs:
    """Inputs of one fold."""

    fold: int
    pretrained: PretrainedInputs | None
    """Codec, tokens and generator; None: the classifier does not work on codes."""
    generator: bool
    """Whether the generator of `pretrained` is used; if not, one is trained if the settings need one."""
    leaks: tuple[str, ...]
    """Sentences about what was trained on the fold and is used nevertheless (--allow-leak)."""


# ---- planning


def choose_fold_inputs(settings: Settings, clips: pa.Table, folds: list[int], output_dir: str) -> list[FoldInputs]:
    """Choose the inputs of each fold. Weights without a path (in the package) are copied to `output_dir`.

    Args:
        settings: settings of the run.
        clips: all clips of the dataset, schema CLIPS.
        folds: test folds.
        output_dir: output folder of the run.

    Raises:
        SoundStormError: --codec or --checkpoint is damaged, the checkpoint is of another codec, or every codec was
            trained on a fold.
        ClusterError: a file cannot be read.
    """
    if settings.model != SOUNDSTORM:
        return [FoldInputs(fold=fold, pretrained=None, generator=False, leaks=()) for fold in folds]
    starts = (
        [_start(settings, settings.codec, settings.checkpoint, output_dir)]
        if settings.codec or settings.checkpoint
        else []
    )
    if settings.packaged:
        starts.append(_start(settings, None, None, output_dir))
    return [
        choose_inputs(settings, test_of(clips, fold), [*starts, synthetic_inputs(settings, output_dir)])
        for fold in folds
    ]


def choose_inputs(settings: Settings, test: Test, starts: list[PretrainedInputs]) -> FoldInputs:
    """The first of `starts` whose codec was not trained on the test fold (or the first, if leaks are allowed), with its
    generator under the same condition.

    Raises:
        SoundStormError: every codec was trained on the fold.
    """
    fold = test.fold
    for start in starts:
        codec_leaks = _seen(test, start.codec_trained_on, f"the codec '{start.codec_name}'")
        if codec_leaks and not settings.allow_leak:
            continue
        if not settings.is_pretrained or start.generator_trained_on is None:
            return FoldInputs(fold=fold, pretrained=start, generator=False, leaks=codec_leaks)
        generator_leaks = _seen(
            test, start.generator_trained_on, f"the generator {start.checkpoint or 'in the package'}"
        )
        if generator_leaks and not settings.allow_leak:
            return FoldInputs(fold=fold, pretrained=start, generator=False, leaks=codec_leaks)
        return FoldInputs(fold=fold, pretrained=start, generator=True, leaks=codec_leaks + generator_leaks)
    seen = ", ".join(f"'{start.codec_name}' ({start.codec_trained_on})" for start in starts)
    raise SoundStormError(
        f"{test}: every available codec was, or may have been, trained on it: {seen}; give another --codec, or "
        "--allow-leak to use the first"
    )


def _start(settings: Settings, codec: str | None, checkpoint: str | None, output_dir: str) -> PretrainedInputs:
    """The inputs from `--codec` and `--checkpoint`, with their provenance; the generator in the package is used if it
    fits the codec."""
    generator = (
        open_checkpoint(checkpoint_files(checkpoint), uri=checkpoint) if checkpoint or settings.packaged else None
    )
    expected = generator.fingerprint if generator is not None and checkpoint else None
    weights, opened = choose_codec(codec, expected, f"--checkpoint {checkpoint}", codec_beside(checkpoint))
    fits = generator is not None and generator.fingerprint == opened.fingerprint
    key = opened.fingerprint.sha256[:12]
    if codec is None:
        codec = storage.join(output_dir, "codecs", f"{key}{CODEC_SUFFIX}")
        storage.write_bytes(codec, weights)
    return PretrainedInputs(
        codec=codec,
        codec_name=opened.fingerprint.name,
        codec_trained_on=provenance_of_codec(weights),
        tokens=_tokens_folder(settings, output_dir, key),
        checkpoint=checkpoint,
        generator_trained_on=generator.provenance if generator is not None and fits else None,
    )


def synthetic_inputs(settings: Settings, output_dir: str) -> PretrainedInputs:
    """The inputs with the codec that `_fit_codec_to_synthetic_sounds` fits."""
    name = f"block-{SYNTHETIC}" + ("" if settings.seed is None else f"-{settings.seed}")
    return PretrainedInputs(
        codec=storage.join(settings.stages or output_dir, "codecs", name, CODEC_FILE),
        codec_name=name,
        codec_trained_on=TrainedOn(outside=("synthetic sounds",)),
        tokens=_tokens_folder(settings, output_dir, name),
    )


def _tokens_folder(settings: Settings, output_dir: str, codec: str) -> str:
    """Folder of the tokens of the codec named `codec`."""
    if settings.stages is None:
        return storage.join(output_dir, "tokens", codec)
    return storage.join(
        settings.stages, "tokens", f"{codec}-{settings_key(settings.clips, settings.location, settings.token_views)}"
    )


def settings_key(*deciding: Any) -> str:
    """Short key of the settings that a step depends on: runs with other settings use another folder."""
    return hashlib.sha256(repr(deciding).encode()).hexdigest()[:8]


def _seen(test: Test, trained_on: Provenance, what: str) -> tuple[str, ...]:
    return tuple(f"fold {test.fold}: {leak}" for leak in judge([Learned(name=what, provenance=trained_on)], test).leaks)


# ---- doing


def fold_identity(settings: Settings, plan: FoldInputs) -> dict[str, Any]:
    """The settings in the record of a fold."""
    return settings.identity() | {"fold": plan.fold} | describe(settings, plan)


def describe(settings: Settings, plan: FoldInputs) -> dict[str, str | None]:
    """Text for reports: the codec of a fold, and what its classifier is initialized from."""
    if plan.pretrained is None:
        return {"codec": None, "start": settings.weights}
    start = plan.pretrained
    codec = f"{start.codec_name} ({start.codec_trained_on})"
    if not settings.is_pretrained:
        return {"codec": codec, "start": "the codec's vectors" if settings.mode == "codec" else "random weights"}
    if plan.generator:
        return {
            "codec": codec,
            "start": f"{start.checkpoint or 'the generator in the package'} ({start.generator_trained_on})",
        }
    return {"codec": codec, "start": f"a generator trained without fold {plan.fold}"}


def folds_to_test(fold: int | None, folds: str, location: str, index: Index) -> tuple[list[int], list[int]]:
    """The test folds that have clips, and those that have none."""
    there = range(1, index.num_folds + 1)
    if fold is not None:
        asked, option = [fold], f"--fold is {fold}"
    elif folds == "all":
        asked, option = list(there), "--folds is all"
    else:
        option = f"--folds is '{folds}'"
        parts = [part.strip() for part in folds.split(",")]
        if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
            raise SoundStormError(f"{option}: give all, or numbers of folds, as in 1,3")
        asked = sorted({int(part) for part in parts})
    if not set(asked) <= set(there):
        raise SoundStormError(f"{option}: the dataset has folds 1 to {index.num_folds}")
    with_clips = set(index.clips["fold"].to_pylist())
    wanted, skipped = [fold for fold in asked if fold in with_clips], [fold for fold in asked if fold not in with_clips]
    if not wanted:
        raise SoundStormError(
            f"{option}: {location} has no clip there; it has clips in fold {', '.join(map(str, sorted(with_clips)))}"
        )
    if with_clips == set(wanted) and len(wanted) == 1:
        raise SoundStormError(
            f"{location}: all clips are in fold {wanted[0]}, so there is nothing to train on: move some to other folds"
        )
    if skipped:
        print_note(f"fold {', '.join(map(str, skipped))}: no clips there, skipped")
    return wanted, skipped
