"""Which files are recordings, by their suffix; which library reads them, libsndfile or ffmpeg through PyAV; and the
error of a recording that cannot be used."""

from soundstorm.errors import SoundStormError
from soundstorm.schemas import Reason

LIBSNDFILE_SUFFIXES = (
    ".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".aif", ".aiff",
    ".aifc", ".caf", ".au", ".snd", ".voc", ".sph", ".nist", ".ircam", ".paf", ".svx", ".8svx", ".avr", ".pvf",
)  # fmt: skip
"""Read by libsndfile, which is always installed."""
FFMPEG_SUFFIXES = (
    ".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".aac", ".ac3", ".eac3", ".dts", ".amr", ".wma", ".wmv",
    ".asf", ".webm", ".weba", ".mkv", ".mka", ".avi", ".flv", ".mpg", ".mpeg", ".mts", ".m2ts", ".ogv", ".ogm", ".spx",
    ".ape", ".wv", ".tta", ".tak", ".mpc", ".ra", ".rm", ".dsf", ".dff", ".mp1",
)  # fmt: skip
"""Need PyAV: compressed audio that libsndfile does not know, and videos with a sound track."""
AUDIO_SUFFIXES = LIBSNDFILE_SUFFIXES + FFMPEG_SUFFIXES
"""A file with any other suffix is not treated as a recording."""
AUDIO_EXAMPLES = ".wav, .flac, .ogg, .mp3, .aiff, .m4a and others"
"""Short list of suffixes for messages."""
FFMPEG_REMEDY = "install PyAV, which reads it: pip install 'soundstorm-env[av]'"
"""What to do if a file needs ffmpeg and PyAV is not installed."""

_CONTAINERS = (
    (4, b"ftyp", "MP4 or M4A"),
    (4, b"moov", "QuickTime"),
    (4, b"mdat", "QuickTime"),
    (0, b"\x1aE\xdf\xa3", "Matroska or WebM"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "WMA or ASF"),
    (0, b"OggS", "Ogg of another codec"),
    (0, b"ID3", "compressed audio behind an ID3 tag"),
    (0, b"\xff\xf1", "AAC"),
    (0, b"\xff\xf9", "AAC"),
    (0, b"\x0bw", "AC-3"),
    (0, b"\x7f\xfe\x80\x01", "DTS"),
    (0, b"#!AMR", "AMR"),
    (0, b"FLV", "FLV"),
    (8, b"AVI ", "AVI"),
    (8, b"WAVE", "WAV of another codec"),
    (0, b"\x00\x00\x01\xba", "MPEG"),
    (4, b"G@", "an MPEG transport stream"),
    (0, b"G@", "an MPEG transport stream"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"wvpk", "WavPack"),
    (0, b"TTA1", "True Audio"),
    (0, b"tBaK", "TAK"),
    (0, b"MPCK", "Musepack"),
    (0, b"MP+", "Musepack"),
    (0, b".RMF", "RealMedia"),
    (0, b".ra\xfd", "RealAudio"),
    (0, b"DSD ", "DSD"),
    (0, b"FRM8", "DSD"),
    (0, b"caff", "CAF of another codec"),
    (0, b"FORM", "AIFF of another codec"),
)
"""Magic bytes of container formats: offset, bytes, name of the format."""


class RejectedAudio(SoundStormError):  # noqa: N818 - named after the table it leads to
    """A recording that cannot be used; `reason` and `detail` become a row of the `rejected` table."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["RejectedAudio"], tuple[Reason, str]]:
        """Keeps both fields when the error is pickled, to cross a process boundary."""
        return type(self), (self.reason, self.detail)


def is_audio(path: str) -> bool:
    """Whether the suffix of `path`, a path or URI, is that of a recording, ignoring case."""
    return path.lower().endswith(AUDIO_SUFFIXES)


def container_of(head: bytes) -> str | None:
    """Name of the container format of a file that ffmpeg may be able to read, from its first bytes; None for anything
    else, such as a text or a picture."""
    for offset, magic, name in _CONTAINERS:
        if head[offset : offset + len(magic)] == magic:
            return name
    return None
