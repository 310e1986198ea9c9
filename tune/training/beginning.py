"""Options of a training study, the inputs of its trials, and the default search space."""

from dataclasses import dataclass, replace
from typing import Annotated, Any

from torch import Tensor

from jobs.console.options import Count, OneOf
from jobs.inputs.checkpoints import checkpoint_files, open_checkpoint
from jobs.inputs.codecs import choose_codec
from jobs.inputs.tokens import Tokens, open_tokens
from jobs.training.generator_recipe import first_weights, network_for
from soundstorm.model.checkpoints import Checkpoint
from soundstorm.model.config import ModelConfig, SamplerSettings, TrainingConfig
from soundstorm.model.presets import PRESETS, preset
from tune.search.options import StudyOptions
from tune.search.space import Choice, Range, Space, check_space, load_space
from tune.training.trial import (
    MODEL_NAMES,
    TRAINING_NAMES,
    applied,
)

TRIALS = "trials"


@dataclass(kw_only=True)
class Options(StudyOptions):
    """Search learning rate, schedule, dropout, mask spans, width and depth with Ray Tune (Optuna and ASHA)."""

    tokens: str = "runs/tokens"
    """Output folder of `tokenize`, a path or s3:// URI."""
    output_dir: str = "runs/tune"
    """Folder or s3:// prefix for trials.parquet, trials.csv, best.json, best.toml, report.html and the trials'
    networks."""
    preset: Annotated[str, OneOf(PRESETS)] = "tiny"
    """Network and training that the search starts from: reference, small, hearing, tiny or faults."""
    checkpoint: str | None = None
    """Checkpoint folder or URI that every trial starts from; its architecture is used."""
    fold: int | None = None
    """The fold that trials are validated with; default: the dataset's last."""
    epochs: Count | None = None
    """Epochs of a trial that is not stopped early; default: the preset's."""
    batch_size: Count | None = None
    """Clips per step and worker; default: the preset's."""
    num_workers: Count = 1
    """Training processes of each trial; more than one makes it a distributed run of Ray Train."""


@dataclass(kw_only=True, frozen=True)
class Start:
    """Inputs of the trials, and the search space."""

    tokens: Tokens
    model: ModelConfig
    training: TrainingConfig
    space: Space
    sampler: SamplerSettings
    """Sampler settings of the resulting networks."""
    weights: dict[str, Tensor] | None
    checkpoint_sha256: str | None
    generator: Checkpoint | None
    """The checkpoint of the initial weights; None: they are random."""


def default_space(config: TrainingConfig, model: ModelConfig, fixed_network: bool) -> Space:
    """Values around a preset: learning rate within a factor of 10, schedule, warm-up, dropout, spans; width and depth
    up to 1.5 times the preset's."""
    space: dict[str, Range | Choice] = {
        "lr": Range(config.lr / 10, config.lr * 10, is_log=True),
        "schedule": Choice("onecycle", "cosine", "trapezoid"),
        "warmup_share": Range(0.02, 0.4, is_log=True),
        "dropout": Range(0.0, 0.3),
        "span_share": Range(0.0, 0.6),
    }
    if not fixed_network:
        unit = 2 * model.heads
        space["width"] = Choice(*(max(unit, round(model.width * share / unit) * unit) for share in (0.75, 1.0, 1.5)))
        space["depth"] = Range(max(1, model.depth // 2), max(2, model.depth + model.depth // 2), is_whole=True)
    return space


def prepare(options: Options) -> Start:
    """Read the tokens and the space, and check them."""
    tokens = open_tokens(options.tokens, options.fold)
    base = preset(options.preset)
    given: dict[str, Any] = {"seed": options.seed, "epochs": options.epochs, "batch_size": options.batch_size}
    config = replace(
        base.training.at_frame_rate(tokens.fingerprint.frame_rate),
        **{name: value for name, value in given.items() if value is not None},
    )
    origin = (
        None
        if options.checkpoint is None
        else open_checkpoint(checkpoint_files(options.checkpoint), uri=options.checkpoint)
    )
    if origin is not None:
        tokens.fingerprint.require_equal(origin.fingerprint, tokens.uri)
    wanted = origin.model.config if origin else base.model.at_most(tokens.fingerprint.num_levels)
    codec = choose_codec(None, tokens.fingerprint, tokens.uri)[1] if wanted.centroids and origin is None else None
    model = network_for(wanted, tokens, codec)
    space = load_space(options.space, default_space(config, model, origin is not None))
    allowed = [*TRAINING_NAMES, *(MODEL_NAMES if origin is None else ("dropout",))]
    check_space(space, allowed, lambda point: applied(point, model, config))
    weights = first_weights(model, config.seed, tokens, origin, codec)
    return Start(
        tokens=tokens,
        model=model,
        training=config,
        space=space,
        sampler=origin.sampler if origin else base.sampler,
        weights=weights,
        checkpoint_sha256=origin.sha256 if origin else None,
        generator=origin,
    )
