"""The schema of every table that jobs exchange; they exchange data only through these tables and through checkpoints.
A table that one file keeps for itself has its schema there.

Units are in the column names; `codes` is a list of levels, each a list of one code per frame.
"""

from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Self

import numpy as np
import pyarrow as pa

from soundstorm.errors import SoundStormError

STRING, INT32, INT64, UINT16 = pa.string(), pa.int32(), pa.int64(), pa.uint16()
FLOAT32, FLOAT64 = pa.float32(), pa.float64()


def _schema(nullable: tuple[str, ...] = (), **columns: pa.DataType) -> pa.Schema:
    """A schema from column names and types; only the columns in `nullable` may contain nulls."""
    return pa.schema([pa.field(name, kind, nullable=name in nullable) for name, kind in columns.items()])


CLIPS = _schema(
    clip_id=STRING,
    dataset=STRING,
    uri=STRING,
    fold=INT32,
    label=INT32,
    category=STRING,
    notes=pa.list_(STRING),
    nullable=("notes",),
)
"""`notes`: what was changed or noticed when the recording was read, each a `Note` with details, such as `cut: 60.00 of
90.00 s are not used`; null until the recording is decoded."""

TOKENS = _schema(
    clip_id=STRING,
    dataset=STRING,
    fold=INT32,
    label=INT32,
    category=STRING,
    view=INT32,
    num_frames=INT32,
    codes=pa.list_(pa.list_(UINT16)),
)

TOKENIZED = pa.schema([*TOKENS, *_schema(content=STRING)])
"""TOKENS as `tokenize` writes them. `content` identifies the recording's file, to detect that it changed
(`soundstorm.serialization.recordings.content_of`)."""

REJECTED = _schema(clip_id=STRING, uri=STRING, stage=STRING, reason=STRING, detail=STRING)

IGNORED = _schema(uri=STRING, reason=STRING, detail=STRING)
"""Files of a data folder that were not treated as recordings."""

SAMPLES = _schema(
    sample_id=STRING,
    label=INT32,
    category=STRING,
    seed=INT64,
    num_frames=INT32,
    duration_s=FLOAT64,
    uri=STRING,
    sha256=STRING,
    precision=STRING,
    nullable=("precision",),
)
"""`precision`: bfloat16 or float32, in which the codes were sampled; null: an earlier version made the sample."""

FAILED = _schema(part=INT32, first_item=INT64, num_items=INT32, error=STRING)
"""Parts of a run that failed and were skipped, each with the number of its first clip and its number of clips."""

METRICS = _schema(
    clip_id=STRING,
    source=STRING,
    category=STRING,
    duration_s=FLOAT64,
    snr_db=FLOAT64,
    zero_crossing_rate=FLOAT64,
    rms=FLOAT64,
    spectral_entropy=FLOAT64,
    spectral_centroid_hz=FLOAT64,
    spectral_rolloff_hz=FLOAT64,
)

PAIRS = _schema(real_id=STRING, generated_id=STRING, spectral_convergence=FLOAT64, log_spectral_distance=FLOAT64)

PREDICTIONS = _schema(clip_id=STRING, fold=INT32, label=INT32, predicted=INT32, probability=FLOAT64, model=STRING)

CLASSIFIED = _schema(
    uri=STRING,
    duration_s=FLOAT64,
    categories=pa.list_(STRING),
    probabilities=pa.list_(FLOAT32),
    note=STRING,
    nullable=("note",),
)
"""`duration_s`: length of the classified part of the file; `categories`: the most probable first; `note`: why the file
was not classified (`silent`, `too short`), else null."""

FEATURES = _schema(
    clip_id=STRING,
    role=STRING,
    category=STRING,
    fold=INT32,
    recording=STRING,
    flux=FLOAT64,
    modulation=FLOAT64,
    modulation_bands=pa.list_(FLOAT64),
    onset_rate=FLOAT64,
    onset_rise=FLOAT64,
    codec_embedding=pa.list_(pa.list_(FLOAT32)),
    classifier_embedding=pa.list_(FLOAT32),
    model_embedding=pa.list_(FLOAT32),
    predicted=STRING,
    probability=FLOAT64,
    codes=pa.list_(UINT16),
    nullable=(
        "classifier_embedding",
        "model_embedding",
        "predicted",
        "probability",
    ),
)
"""`recording`: the recording from which the clip was cut; `codes`: the clip's codes on level 0. The columns of the
classifier and of the embedding model are null if there is none."""

SUBSTITUTION = _schema(kept=INT32, rest=STRING, named=FLOAT64, log_mel=FLOAT64, clips=INT32, nullable=("named",))
"""A line of `soundstorm.generation.substitution`: number of levels that keep the recording's codes; what predicts the
other levels; share of clips classified correctly (null if the classifier does not know the classes); log-mel distance
in nats; number of clips."""

UTILITY = _schema(
    training_set=STRING,
    clips_per_class=INT32,
    seed=INT32,
    training_clips=INT32,
    test_clips=INT32,
    accuracy=FLOAT64,
)
"""One training of `soundstorm.classification.utility`: its training set, and the classifier's accuracy on the test
recordings."""

MAX_DIGITS = 18
"""Longest number that is accepted in the metadata."""
EARLIER_CODECS = ("compact-24khz", "compact")
"""Names of learned codecs that this version cannot read: the one in the package of earlier versions, and the default
name of the ones that they trained."""


class Role(StrEnum):
    """The role of a row of `features` in the comparison."""

    REAL = "real"
    """A real clip that was sampled for the comparison."""
    GENERATED = "generated"
    REFERENCE = "reference"
    """Another clip of the real clips' dataset; the model may have been trained on it."""


class Source(StrEnum):
    """Where the audio behind a row of `metrics` comes from."""

    REAL = "real"
    RESYNTHESIZED = "resynthesized"
    GENERATED = "generated"


class Reason(StrEnum):
    """Why a clip is in `rejected`; no other value occurs there."""

    MISSING_FILE = "missing_file"
    UNREADABLE_FILE = "unreadable_file"
    EMPTY_FILE = "empty_file"
    NOT_AUDIO = "not_audio"
    NEEDS_PYAV = "needs_pyav"
    TRUNCATED = "truncated"
    NO_SAMPLES = "no_samples"
    NOT_FINITE = "not_finite"
    OUTSIDE_DATA_FOLDER = "outside_data_folder"
    DUPLICATE_ID = "duplicate_id"
    BAD_FOLD = "bad_fold"
    BAD_LABEL = "bad_label"
    CODEC_FAILED = "codec_failed"
    KILLED_WORKER = "killed_worker"


class Ignored(StrEnum):
    """Why a file is in `ignored`; no other value occurs there."""

    NO_RECORDING = "no_recording"
    HIDDEN = "hidden"
    LABELS = "labels"
    UNLISTED = "unlisted"
    OTHER_DATASET = "other_dataset"
    SOURCE_IN_TWO_FOLDS = "source_in_two_folds"


class Note(StrEnum):
    """Kinds of notes in `clips`."""

    ANTI_PHASE = "anti_phase"
    OFFSET = "offset"
    SCALED = "scaled"
    SILENT = "silent"
    NEAR_SILENT = "near_silent"
    CLIPPED = "clipped"
    CUT = "cut"
    SPLIT = "split"
    LOW_RATE = "low_rate"


@dataclass(kw_only=True, frozen=True)
class CodecFingerprint:
    """Identifies a codec: two tables or checkpoints can be used together if their fingerprints are equal."""

    name: str
    """Human-readable name of the codec."""
    sha256: str
    """SHA-256 of the codec's weights."""
    sample_rate: int
    """Samples per second."""
    frame_rate: float
    """Frames per second; a whole number is an int."""
    num_levels: int
    """Levels of the residual vector quantizer."""
    codebook_size: int
    """Codes per level."""

    def __post_init__(self) -> None:
        if self.frame_rate == int(self.frame_rate):
            object.__setattr__(self, "frame_rate", int(self.frame_rate))

    def to_metadata(self) -> dict[str, str]:
        """Key-value metadata of a Parquet file, all strings, keys prefixed with `codec_`."""
        return {f"codec_{key}": str(value) for key, value in asdict(self).items()}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str], where: str, made_by: str = "tokenize") -> Self:
        """The inverse of `to_metadata`; an error names the file, `where`, and `made_by`, the command that writes it.

        Raises:
            SoundStormError: a key is missing or malformed, or the codec is one of EARLIER_CODECS.
        """
        remedy = f"make it again with `soundstorm {made_by}`"
        values: dict[str, str | float] = {}
        for field in fields(cls):
            text = metadata.get(f"codec_{field.name}")
            if text is None:
                raise SoundStormError(f"{where}: no codec fingerprint ('codec_{field.name}' is missing); {remedy}")
            if field.type in (int, "int"):
                if not text.isascii() or not text.isdigit() or len(text) > MAX_DIGITS:
                    raise SoundStormError(f"{where}: codec_{field.name} is '{text}', not a whole number; {remedy}")
                values[field.name] = int(text)
            elif field.type in (float, "float"):
                whole, _, rest = text.partition(".")
                if not text.isascii() or not (whole + rest).isdigit() or not whole or len(text) > MAX_DIGITS:
                    raise SoundStormError(f"{where}: codec_{field.name} is '{text}', not a number; {remedy}")
                values[field.name] = float(text)
            else:
                values[field.name] = text
        fingerprint = cls(**values)  # type: ignore[arg-type]
        if fingerprint.name in EARLIER_CODECS:
            raise SoundStormError(
                f"{where}: its codec '{fingerprint.name}' ({fingerprint.sha256[:12]}) is the learned codec "
                "of an earlier version, which this version cannot read: run `soundstorm tokenize` and `soundstorm "
                "train` again"
            )
        return fingerprint

    def require_equal(self, other: "CodecFingerprint", where: str) -> None:
        """Raise if `other`, the codec in use, is not the codec with which `where` was made; the message names both."""
        if self != other:
            raise SoundStormError(
                f"{where} was made with codec '{self.name}' ({self.sha256[:12]}, {self.sample_rate} Hz, "
                f"{self.num_levels}x{self.codebook_size}), "
                f"but the codec in use is '{other.name}' ({other.sha256[:12]}, {other.sample_rate} Hz, "
                f"{other.num_levels}x{other.codebook_size}): "
                "pass the matching --codec, or tokenize and train again"
            )


def check_schema(found: pa.Schema, expected: pa.Schema, where: str) -> None:
    """Raise unless `found` has every column of `expected` with its type; other columns are allowed."""
    for field in expected:
        index = found.get_field_index(field.name)
        if index < 0:
            raise SoundStormError(
                f"{where}: column '{field.name}' is missing; it has {', '.join(found.names) or 'no columns'}"
            )
        if found.field(index).type != field.type:
            raise SoundStormError(f"{where}: column '{field.name}' is {found.field(index).type}, expected {field.type}")


def check_table(found: pa.Table, expected: pa.Schema, where: str) -> None:
    """Like `check_schema`; also raises if a column that is not nullable in `expected` contains nulls."""
    check_schema(found.schema, expected, where)
    for field in expected:
        if not field.nullable and found[field.name].null_count:
            raise SoundStormError(
                f"{where}: column '{field.name}' has no value in {found[field.name].null_count} of {found.num_rows} "
                "rows"
            )


def codes_to_lists(codes_QT: np.ndarray) -> list[np.ndarray]:
    """Codes (num_levels, num_frames) as the value of a `codes` cell."""
    return list(codes_QT.astype(np.uint16))


def codes_from_column(
    column: pa.ChunkedArray | pa.ListArray, num_levels: int, codebook_size: int, where: str
) -> list[np.ndarray]:
    """A `codes` column as a list with one int64 array (num_levels, num_frames) per row.

    Raises:
        SoundStormError: a row has another number of levels, levels of unequal length, or a code out of range.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    arrays = []
    for chunk in chunks:
        rows = pa.array([], pa.list_(pa.list_(pa.uint16()))) if len(chunk) == 0 else chunk
        for row in rows:
            levels = row.values
            if levels is None or len(levels) != num_levels or levels.null_count:
                raise SoundStormError(
                    f"{where}: a row of 'codes' has {0 if levels is None else len(levels)} levels, expected "
                    f"{num_levels}"
                )
            if levels.flatten().null_count:
                raise SoundStormError(f"{where}: a row of 'codes' lacks a code")
            flat = levels.flatten().to_numpy(zero_copy_only=False)
            frames, rest = divmod(len(flat), num_levels)
            lengths = {
                end - start
                for start, end in zip(levels.offsets[:-1].to_pylist(), levels.offsets[1:].to_pylist(), strict=True)
            }
            if rest or lengths != {frames}:
                raise SoundStormError(f"{where}: a row of 'codes' has levels of unequal length {sorted(lengths)}")
            codes_QT = flat.reshape(num_levels, frames).astype(np.int64)
            if frames and codes_QT.max() >= codebook_size:
                raise SoundStormError(
                    f"{where}: code {codes_QT.max()} is out of range: the codebooks have {codebook_size} codes"
                )
            arrays.append(codes_QT)
    return arrays
