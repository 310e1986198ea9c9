"""Options of `generate`, with checks of their combinations."""

from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal

import tyro
from annotated_types import Ge, Le

from cluster import storage
from jobs.console.options import Allowed, Count, Fraction, NotNegative, PoolOptions
from jobs.generation.edit_rules import OPTIONS
from soundstorm.editing.regions import parse_region
from soundstorm.errors import SoundStormError
from soundstorm.model.config import SamplerSettings
from soundstorm.model.settings_file import parse_settings
from soundstorm.optimization.precision import Precision

MIN_DURATION_S, MAX_DURATION_S, DURATION_S = 0.05, 3600.0, 5.0
"""Minimum, maximum and default duration of a clip; an hour of sound takes 400 MB of memory."""
DURATIONS = Allowed(f"{MIN_DURATION_S:g} to {MAX_DURATION_S:g} seconds")
NEW_SAMPLES, EDITED_SAMPLES = 10, 1
"""Default of --num-samples for new sound and for edits."""
MAX_SAMPLES = 1_000_000_000
STRENGTH = 0.6
OPTIONS_WITH_RECIPE = (
    "recipe", "recording", "checkpoint", "codec", "listener", "output_dir", "overwrite", "address", "num_actors",
    "precision",
)  # fmt: skip
"""Options that may be given with --recipe."""
SAMPLER_OPTIONS = (
    "order", "temperature", "final_temperature", "upper_temperature", "choice_temperature", "top_p", "upper_top_p",
    "typical_mass", "guidance", "upper_guidance", "timbre_spread", "candidates", "accept_probability",
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
    num_samples: Count | None = None
    """Total number of clips; default: 10, or 1 if a recording is edited."""
    duration: Annotated[float, Ge(MIN_DURATION_S), Le(MAX_DURATION_S), DURATIONS] = DURATION_S
    """Length of each clip in seconds, at most 3600; clips longer than 5 are sampled in overlapping windows."""
    class_name: Annotated[str | None, tyro.conf.arg(name="class")] = None
    """Class to generate, by name (`Sea waves`, `sea-waves` and `sea_waves` are the same); default: all classes
    equally often."""
    seed: int = 0
    """The same seed gives the same clips."""
    prompt: str | None = None
    """Recording to continue, path or URI: each clip begins with its first --prompt-duration seconds."""
    prompt_duration: float = 1.0
    """Seconds of --prompt that each clip begins with."""
    inpaint: str | None = None
    """Recording to in-paint (path or URI): each --region is replaced by new sound, all other samples are unchanged."""
    region: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Stretch that --inpaint replaces, START-END in seconds such as 1.2-2.0; may be given several times."""
    vary: str | None = None
    """Recording of which to generate variations (path or URI)."""
    strength: Fraction | None = None
    """Fraction of the frames of --vary that are generated anew, 0 to 1; default: 0.6."""
    kept_levels: NotNegative | None = None
    """Number of levels that the other frames of --vary keep; default: 1."""
    loop: bool = False
    """Generate a loop that repeats without a click; with --inpaint, close the recording to a loop."""
    steady: bool = True
    """Keep a clip of several windows as loud as its first window, if that is a steady sound, such as rain."""
    second_try: bool = True
    """Generate a --region once more if the classifier that chooses among --candidates does not recognize its class."""
    recipe: str | None = None
    """JSON file beside a clip (path or URI): reproduce this clip, without further options."""
    recording: str | None = None
    """Present path or URI of the recording that --recipe names; default: the one in the recipe."""
    recipes: bool = True
    """Write a recipe beside each clip."""
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
    """Which frames an iteration keeps: the most confident, or evenly spaced ones; default of this and the twelve
    options below: the checkpoint's."""
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
    upper_top_p: float | None = None
    """--top-p at all levels above 0; default: that of level 0."""
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
    """Generate up to this many candidates of each sample and keep the one for whose class the classifier scores
    highest, or the first that reaches --accept-probability."""
    accept_probability: float | None = None
    """Keep a candidate to whose class the classifier gives at least this probability without generating more; 1:
    generate all --candidates."""
    listener: str | None = None
    """Classifier that reranks the --candidates, from `train-classifier`, path or URI; default: the one in the package,
    for the classes of ESC-50."""
    codec: str | None = None
    """Weights of the codec, path or URI; default: the codec that the checkpoint was trained with, from the package or
    the cache."""
    precision: Precision = "auto"
    """In which numbers the network computes: bfloat16, float32, or auto: as the run began, or by the slowest kind of
    node of the cluster."""
    shard_size: Count = 8
    """Clips per shard, generated as one batch. A single shard on a machine without a GPU is generated without Ray,
    unless --address or --num-actors is given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recipe is not None:
            self._check_recipe_options()
        elif self.recording is not None:
            raise SoundStormError(
                "--recording needs --recipe FILE: to edit a recording, give it to --inpaint, --vary or --prompt"
            )
        if self.num_samples is not None and self.num_samples > MAX_SAMPLES:
            raise SoundStormError(
                f"--num-samples is {self.num_samples}: give at most {MAX_SAMPLES}; for more, run again with another "
                "--seed and --output-dir"
            )
        if self.prompt is not None:
            OPTIONS.check_prompt(self.prompt_duration, self.duration)
        self._check_edit()

    @property
    def edited(self) -> tuple[str, str] | None:
        """The option with a recording to edit, and the recording."""
        given = [(f"--{name}", uri) for name in ("inpaint", "vary") if (uri := getattr(self, name)) is not None]
        return given[0] if given else None

    @property
    def count(self) -> int:
        """Number of clips to generate."""
        return self.num_samples or (NEW_SAMPLES if self.edited is None else EDITED_SAMPLES)

    def _check_recipe_options(self) -> None:
        for field in fields(self):
            if field.name not in OPTIONS_WITH_RECIPE and getattr(self, field.name) != field.default:
                name = "class" if field.name == "class_name" else field.name.replace("_", "-")
                raise SoundStormError(
                    f"--{name} cannot be given with --recipe, which contains it: leave out one of them"
                )

    def _check_edit(self) -> None:
        """Check the combination of options for edits."""
        alone = [f"--{name}" for name in ("prompt", "inpaint", "vary") if getattr(self, name) is not None]
        if len(alone) > 1:
            raise SoundStormError(f"{' and '.join(alone)} cannot be combined: apply one edit, then the other")
        if self.prompt is not None and self.loop:
            raise SoundStormError(
                "--loop replaces the beginning, which --prompt keeps: generate the clip with --prompt first, then "
                "give it to --inpaint with --loop"
            )
        for name, owner in (("region", "inpaint"), ("strength", "vary"), ("kept_levels", "vary")):
            if getattr(self, name) not in (None, ()) and getattr(self, owner) is None:
                raise SoundStormError(f"--{name.replace('_', '-')} needs --{owner} FILE")
        if self.inpaint is not None and not self.region and not self.loop:
            raise SoundStormError(
                "--inpaint needs a stretch to replace: give --region, such as --region 1.2-2.0, or --loop"
            )
        for text in self.region:
            try:
                parse_region(text)
            except SoundStormError as error:
                raise SoundStormError(f"--{error}") from error
        if self.edited is not None:
            option, _ = self.edited
            if self.duration != DURATION_S:
                raise SoundStormError(
                    f"--duration cannot be given with {option}: the result is as long as the recording"
                )
            if self.class_name is None:
                raise SoundStormError(f"{option} needs --class: give the class of the recording")

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
