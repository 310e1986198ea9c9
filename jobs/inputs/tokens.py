"""The output of `tokenize` for training: training and validation clips, codec and classes."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from cluster.storage import absolute, exists, join
from cluster.tables import read_table
from cluster.tables import stage_record as records
from jobs.inputs.datasets import rows_of_folds
from jobs.inputs.provenance import combined, read_contents
from soundstorm.codec.files import OFFICIAL_SHA256
from soundstorm.data.views import ORIGINAL
from soundstorm.errors import SoundStormError
from soundstorm.model.checkpoints import Checkpoint
from soundstorm.schemas import CLIPS, TOKENS, CodecFingerprint, check_table
from soundstorm.serialization.leakage import Test
from soundstorm.serialization.provenance import (
    MISSING,
    Provenance,
    Role,
    TrainedOn,
    as_parent,
    parse_provenance,
)
from soundstorm.serialization.recordings import digest_of, recordings_of
from soundstorm.training.token_set import TokenSet

COLUMNS = ("clip_id", "view", "fold", "label", "num_frames", "codes")
CLIPS_FILE = "clips.parquet"
CODEC_TRAINED_ON = "codec_trained_on"
"""Key in the record of `tokenize`: provenance of the codec; null: unknown."""


@dataclass(kw_only=True, frozen=True)
class Tokens:
    """The tokens of a dataset, one fold of it held out."""

    table: pa.Table
    """Columns COLUMNS, the clips of all folds."""
    dataset: str
    """Name of the dataset."""
    fingerprint: CodecFingerprint
    categories: list[str]
    """Name of each class, by label."""
    fold: int
    """The fold that is used for validation and not for training."""
    made: str
    """When `tokenize` finished; identifies this set of tokens among others written to the same folder."""
    uri: str
    folds: Mapping[str, int]
    """Fold of each clip of the dataset, also of those that could not be tokenized."""
    contents: Mapping[str, str] | None
    """`soundstorm.serialization.recordings.content_of` each clip; None: an earlier version made the tokens."""
    codec: Provenance
    """What the codec was trained on."""

    def trained_on(self, generator: Checkpoint | None = None) -> TrainedOn:
        """What a network knows that was trained on all folds but `fold`, from this generator or from random weights."""
        rows = self.table.select(["clip_id", "fold"]).to_pylist()
        trained = [row["clip_id"] for row in rows if row["fold"] != self.fold]
        start = (
            None
            if generator is None
            else as_parent(Role.GENERATOR, "started from", generator.sha256, generator.provenance)
        )
        codec = as_parent(Role.CODEC, self.fingerprint.name, self.fingerprint.sha256, self.codec)
        try:
            recordings = recordings_of(self.dataset, self.folds, trained, self.contents)
        except ValueError as error:
            raise SoundStormError(f"{self.uri}: {error}: run `soundstorm tokenize` again") from error
        return combined(recordings, codec, start)

    def test(self) -> Test:
        """The test on `fold`."""
        return Test(
            dataset=self.dataset, fold=self.fold, digest=lambda: digest_of(self.folds), contents=self._contents_of_fold
        )

    def _contents_of_fold(self) -> dict[str, str]:
        if self.contents is None:
            return read_contents(rows_of_folds(self.clips(), {self.fold})["uri"].to_pylist())
        rows = self.table.select(["clip_id", "fold"]).to_pylist()
        return {self.contents[row["clip_id"]]: row["clip_id"] for row in rows if row["fold"] == self.fold}

    def clips(self) -> pa.Table:
        """The clips that were tokenized and those that were rejected, schema CLIPS."""
        return _clips(join(self.uri.rpartition("/")[0], CLIPS_FILE))

    def training_labels(self) -> list[int]:
        """Class of each clip to train on."""
        rows = self.table.select(["fold", "view", "label"]).to_pylist()
        return [row["label"] for row in rows if row["fold"] != self.fold and row["view"] == ORIGINAL]

    def split(self) -> tuple[TokenSet, TokenSet]:
        """Clips to train on (all folds but `fold`, all views) and to validate with (`fold`, as recorded), each in order
        of clip_id.

        Raises:
            SoundStormError: codes are malformed.
        """
        held_out = pc.equal(self.table["fold"], self.fold)
        training = self.table.filter(pc.invert(held_out))
        validation = self.table.filter(pc.and_(held_out, pc.equal(self.table["view"], ORIGINAL)))
        levels, size = self.fingerprint.num_levels, self.fingerprint.codebook_size
        return TokenSet.from_rows(training, levels, size, self.uri), TokenSet.from_rows(
            validation, levels, size, self.uri
        )


def open_tokens(uri: str, fold: int | None, option: str = "--fold") -> Tokens:
    """Read the output folder of `tokenize` and choose the test fold.

    Args:
        uri: the folder.
        fold: the test fold; None = the last that has clips.
        option: where the fold was given.

    Raises:
        SoundStormError: the tokens are not complete or malformed, or the fold leaves nothing to train on or to validate
            with.
        ClusterError: a table is missing or malformed.
    """
    record = records.read(uri, "tokenize")
    tokens_uri = join(uri, "tokens")
    if record is None:
        raise SoundStormError(
            f"--tokens {uri}: no finished tokens there (no tokenize.json): give the --output-dir of `soundstorm "
            "tokenize`"
        )
    table, metadata = read_table(tokens_uri)
    check_table(table, TOKENS, tokens_uri)
    categories = _categories(metadata, tokens_uri)
    folds = sorted(set(table["fold"].to_pylist()))
    if not folds:
        raise SoundStormError(f"--tokens {uri}: there are no clips: see the table `rejected` there")
    chosen = folds[-1] if fold is None else fold
    if chosen not in folds:
        raise SoundStormError(f"{option} is {chosen}: the tokens have folds {', '.join(map(str, folds))}")
    if folds == [chosen]:
        raise SoundStormError(f"{option} is {chosen}, and the tokens have no other fold: there is nothing to train on")
    _require_recorded(table, tokens_uri)
    for row in table.select(["clip_id", "label", "num_frames"]).to_pylist():
        if not 0 <= row["label"] < len(categories) or row["num_frames"] < 1:
            raise SoundStormError(
                f"{tokens_uri}: clip '{row['clip_id']}' has label {row['label']} of {len(categories)} and "
                f"{row['num_frames']} frames: "
                "run `soundstorm tokenize` again"
            )
    fingerprint = CodecFingerprint.from_metadata(metadata, tokens_uri)
    has_contents = "content" in table.column_names
    return Tokens(
        table=table.select(list(COLUMNS)),
        dataset=table["dataset"][0].as_py(),
        fingerprint=fingerprint,
        categories=categories,
        fold=chosen,
        made=record.finished,
        uri=absolute(tokens_uri),
        folds=_folds(uri, table),
        contents=dict(zip(table["clip_id"].to_pylist(), table["content"].to_pylist(), strict=True))
        if has_contents
        else None,
        codec=_codec_provenance(record, fingerprint),
    )


def _folds(uri: str, table: pa.Table) -> dict[str, int]:
    """Fold of each clip, from the list of all clips or else from the tokens."""
    where = join(uri, CLIPS_FILE)
    clips = _clips(where) if exists(where) else table
    return dict(zip(clips["clip_id"].to_pylist(), clips["fold"].to_pylist(), strict=True))


def _clips(where: str) -> pa.Table:
    clips, _ = read_table(where)
    check_table(clips, CLIPS.remove(CLIPS.get_field_index("notes")), where)  # of an earlier version, without notes
    return clips


def _codec_provenance(record: records.Record, fingerprint: CodecFingerprint) -> Provenance:
    """Provenance of the codec of the tokens, from the record or for a known codec."""
    if record.counts.get(CODEC_TRAINED_ON) is not None:
        return parse_provenance(record.counts[CODEC_TRAINED_ON])
    if fingerprint.sha256 == OFFICIAL_SHA256:
        return TrainedOn(outside=("encodec",))
    return MISSING


def _categories(metadata: dict[str, str], where: str) -> list[str]:
    try:
        categories = json.loads(metadata.get("categories", ""))
    except (ValueError, RecursionError):
        categories = None
    if (
        not isinstance(categories, list)
        or not all(isinstance(name, str) for name in categories)
        or len(set(categories)) != len(categories)
    ):
        raise SoundStormError(f"{where}: the categories are missing: run `soundstorm tokenize` again")
    return categories


def _require_recorded(table: pa.Table, where: str) -> None:
    """Raise unless every clip has each of its views once, and view 0 among them."""
    found = Counter(zip(table["clip_id"].to_pylist(), table["view"].to_pylist(), strict=True))
    for (clip_id, view), count in found.items():
        if count > 1 or (clip_id, ORIGINAL) not in found:
            problem = (
                f"has view {view} {count} times"
                if count > 1
                else f"has view {view} and not view {ORIGINAL}, the recording"
            )
            raise SoundStormError(f"{where}: clip '{clip_id}' {problem}: run `soundstorm tokenize` again")
