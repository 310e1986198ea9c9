"""Recipes: a JSON file beside each clip with all settings and files it was generated from, so that it can be reproduced
bit by bit."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, cast

from pydantic.dataclasses import dataclass as checked

from cluster import storage
from cluster.tables import stage_record as records
from jobs.generation.options import STRENGTH, Options
from soundstorm.codec.codec import Codec
from soundstorm.editing.editor import KEPT_LEVELS
from soundstorm.errors import SoundStormError
from soundstorm.model.config import SamplerSettings
from soundstorm.optimization.precision import Precision
from soundstorm.serialization.hub import is_hub_address
from soundstorm.settings import Settings

MAX_BATCH_SIZE = 4096
"""Maximum number of clips in a batch."""
FORMAT = 1
KEY = "recipe"
"""Key of the recipe in the JSON file, beside the columns of the manifest."""
UPLOADED = "uploaded"
"""Replaces the URI of a recording that was uploaded to the endpoint, which does not keep it."""


@checked(kw_only=True, frozen=True)
class SourceFile(Settings):
    """A file that a clip was generated from."""

    uri: str | None = None
    """Its URI at that time; None: in the package."""
    sha256: str = ""

    def require(self, sha256: str, what: str, where: str, remedy: str) -> None:
        """Raise SoundStormError unless `sha256` is that of this source."""
        if sha256 != self.sha256:
            raise SoundStormError(
                f"{where} needs {what} with SHA-256 {self.sha256[:12]} ({self.uri or 'in the package'}), but the one "
                f"found has {sha256[:12]}: {remedy}"
            )


@checked(kw_only=True, frozen=True)
class Recipe(Settings):
    """Everything that the clips of a run have in common; the class and seed of a clip are in its row."""

    format: int = FORMAT
    checkpoint: dict = field(default_factory=dict)
    """A `SourceFile`."""
    codec: dict = field(default_factory=dict)
    """`uri` (None: found by its digest) and fingerprint."""
    listener: dict | None = None
    """A `SourceFile`: the classifier that chose among candidates."""
    sampler: dict = field(default_factory=dict)
    """`SamplerSettings`."""
    edit: str = "new"
    """`new`, `prompt`, `inpaint` or `vary`."""
    loop: bool = False
    steady: bool = False
    """Whether a long clip was kept as loud as its first window; an earlier version did not."""
    regions: tuple[str, ...] = ()
    second_try: bool = False
    """Whether regions could have a second try; an earlier version had none."""
    strength: float | None = None
    kept_levels: int | None = None
    prompt_duration_s: float | None = None
    parents: tuple[dict, ...] = ()
    """A `SourceFile` for each recording that was edited or continued."""
    audio_format: str = "flac"
    precision: str | None = None
    """bfloat16 or float32; None: an earlier version made the clip."""
    versions: dict = field(default_factory=dict)
    """Versions of Python and the libraries."""


@dataclass(kw_only=True, frozen=True)
class ClipRecipe:
    """The recipe of one clip, read from its file."""

    where: str
    sample_id: str
    category: str
    seed: int
    duration_s: float
    sha256: str
    batch_size: int
    """Size of the batch: in bfloat16 the codes of a clip depend on it."""
    recipe: Recipe

    @property
    def number(self) -> int:
        """The clip's number in its run."""
        return int(self.sample_id.rpartition("-")[2])

    @property
    def sampler(self) -> SamplerSettings:
        """Sampler settings of the clip."""
        return SamplerSettings.from_dict(self.recipe.sampler, f"{self.where}: sampler")

    @property
    def parents(self) -> list[SourceFile]:
        """The recordings that were edited or continued."""
        return [SourceFile.from_dict(parent, f"{self.where}: parents") for parent in self.recipe.parents]

    def options(self, given: Options) -> Options:
        """The options that reproduce the clip; paths are those of `given`, or else those of the recipe.

        Raises:
            SoundStormError: this version cannot follow the recipe.
        """
        edit_options: dict[str, Any] = {"precision": self._precision(given)}
        kind, parents = self.recipe.edit, self.parents
        if kind not in ("new", "prompt", "inpaint", "vary") or (kind != "new") != (len(parents) == 1):
            raise SoundStormError(
                f"{self.where}: edit '{kind}' of {len(parents)} recordings is unknown: use the "
                "version that wrote the recipe"
            )
        if kind != "new":
            edit_options[kind] = self._recording(parents[0], given)
        elif given.recording is not None:
            raise SoundStormError(f"{self.where} has no recording: leave out --recording")
        if kind == "prompt":
            edit_options["prompt_duration"] = self.recipe.prompt_duration_s
        if kind == "inpaint":
            edit_options |= {"region": tuple(self.recipe.regions), "second_try": self.recipe.second_try}
        if kind == "vary":
            edit_options |= {"strength": self.recipe.strength, "kept_levels": self.recipe.kept_levels}
        if kind in ("new", "prompt"):
            edit_options |= {"duration": self.duration_s, "steady": self.recipe.steady}
        uris: dict[str, Any] = {
            name: getattr(given, name) or (None if source is None else SourceFile.from_dict(source, self.where).uri)
            for name, source in (("checkpoint", self.recipe.checkpoint), ("listener", self.recipe.listener))
        }
        uris["codec"] = given.codec or self.recipe.codec.get("uri")
        try:
            return replace(
                given,
                recipe=None,
                recording=None,
                class_name=self.category,
                num_samples=1,
                loop=self.recipe.loop,
                format=self.recipe.audio_format,  # type: ignore[arg-type]
                **uris,
                **edit_options,
            )
        except SoundStormError as error:
            raise SoundStormError(f"{self.where}: {error}") from error

    def _precision(self, given: Options) -> Precision:
        """That of the recipe; one of an earlier version does not say it."""
        said = self.recipe.precision
        if said is None:
            return given.precision
        if said not in ("bfloat16", "float32"):
            raise SoundStormError(f"{self.where}: precision '{said}' is unknown: use the version that wrote the recipe")
        if given.precision not in ("auto", said):
            raise SoundStormError(
                f"{self.where} was made in {said}, and --precision is {given.precision}: leave it out"
            )
        return cast(Precision, said)

    def _recording(self, parent: SourceFile, given: Options) -> str | None:
        """Path or URI of the recording."""
        if given.recording is None and parent.uri == UPLOADED:
            raise SoundStormError(
                f"{self.where} was generated from a recording that was uploaded to an endpoint: give that recording "
                f"with --recording (SHA-256 {parent.sha256[:12]})"
            )
        return given.recording or parent.uri


def recipe_of(
    options: Options,
    *,
    checkpoint_sha256: str,
    codec: Codec,
    reranker: bytes | None,
    sampler: SamplerSettings,
    parents: Sequence[Mapping[str, Any]],
    precision: str,
) -> dict[str, Any]:
    """The recipe of the clips of a run, as written to their files.

    Args:
        options: options of the run.
        checkpoint_sha256: digest of the checkpoint.
        codec: the codec.
        reranker: content of the file of the classifier that chooses among candidates, or None.
        sampler: how codes are sampled.
        parents: sources, as dictionaries, of the recordings that are edited or continued.
        precision: precision in which codes are sampled.
    """
    edited = options.edited
    kind = "prompt" if options.prompt is not None else "new" if edited is None else edited[0].removeprefix("--")
    recipe = Recipe(
        checkpoint=SourceFile(uri=_absolute(options.checkpoint), sha256=checkpoint_sha256).to_dict(),
        codec={"uri": _absolute(options.codec)} | asdict(codec.fingerprint),
        listener=None
        if reranker is None
        else SourceFile(
            uri=_absolute(options.listener),
            sha256=hashlib.sha256(reranker).hexdigest(),
        ).to_dict(),
        sampler=sampler.to_dict(),
        edit=kind,
        loop=options.loop,
        steady=options.steady and kind in ("new", "prompt"),
        regions=options.region,
        second_try=options.second_try and bool(options.region),
        strength=(STRENGTH if options.strength is None else options.strength) if kind == "vary" else None,
        kept_levels=(KEPT_LEVELS if options.kept_levels is None else options.kept_levels) if kind == "vary" else None,
        prompt_duration_s=options.prompt_duration if kind == "prompt" else None,
        parents=tuple(dict(parent) for parent in parents),
        audio_format=options.format,
        precision=precision,
        versions=records.versions(),
    )
    return recipe.to_dict()


def _absolute(uri: str | None) -> str | None:
    """`uri` as an absolute path or URI."""
    return uri if uri is None or is_hub_address(uri) else storage.absolute(uri)


def read_recipe(uri: str) -> ClipRecipe:
    """Read the recipe in the file at `uri`.

    Raises:
        SoundStormError: the file is not a recipe.
        ClusterError: there is no such file.
    """
    where, data = f"--recipe {uri}", storage.read_bytes(uri)
    try:
        content = json.loads(data)
    except ValueError as error:
        raise SoundStormError(f"{where} is not JSON ({error}): give the .json file beside a clip") from error
    if not isinstance(content, dict) or not isinstance(content.get(KEY), dict):
        raise SoundStormError(f"{where} is not a recipe: give the .json file beside a clip")
    if content[KEY].get("format") != FORMAT:
        raise SoundStormError(
            f"{where} has format {content[KEY].get('format')}, but this version reads {FORMAT}: use "
            "the version that wrote it"
        )
    row = {each.name: content.get(each.name) for each in fields(ClipRecipe) if each.name not in ("where", "recipe")}
    kinds = {"sample_id": str, "category": str, "seed": int, "duration_s": (int, float), "sha256": str}
    kinds["batch_size"] = int
    for name, kind in kinds.items():
        if not isinstance(row[name], kind) or isinstance(row[name], bool):  # type: ignore[arg-type]
            raise SoundStormError(f"{where}: {name} is {row[name]!r}: give the unchanged .json file beside a clip")
    if not 0 < int(str(row["batch_size"])) <= MAX_BATCH_SIZE:
        raise SoundStormError(f"{where}: batch_size is {row['batch_size']}: give 1 to {MAX_BATCH_SIZE}")
    if not str(row["sample_id"]).rpartition("-")[2].isdecimal():
        raise SoundStormError(
            f"{where}: sample_id is {row['sample_id']!r}: give the unchanged .json file, whose "
            "sample_id ends with a number"
        )
    return ClipRecipe(where=where, recipe=Recipe.from_dict(content[KEY], where), **row)  # type: ignore[arg-type]
