"""Which files are recordings, by the endings of their names, and what reads them: libsndfile, or ffmpeg through
PyAV."""

LIBSNDFILE_SUFFIXES = (
    ".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".aif", ".aiff",
    ".aifc", ".caf", ".au", ".snd", ".voc", ".sph", ".nist", ".ircam", ".paf", ".svx", ".8svx", ".avr", ".pvf",
)  # fmt: skip
"""Read by what is installed in any case."""
FFMPEG_SUFFIXES = (
    ".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".aac", ".ac3", ".eac3", ".dts", ".amr", ".wma", ".wmv",
    ".asf", ".webm", ".weba", ".mkv", ".mka", ".avi", ".flv", ".mpg", ".mpeg", ".mts", ".m2ts", ".ogv", ".ogm", ".spx",
    ".ape", ".wv", ".tta", ".tak", ".mpc", ".ra", ".rm", ".dsf", ".dff", ".mp1",
)  # fmt: skip
"""Read with PyAV alone: compressed sound that libsndfile does not know, and video with a sound track."""
AUDIO_SUFFIXES = LIBSNDFILE_SUFFIXES + FFMPEG_SUFFIXES
"""A file with another ending is no recording."""
AUDIO_EXAMPLES = ".wav, .flac, .ogg, .mp3, .aiff, .m4a and others"
"""For a message, which has no room for all endings."""
FFMPEG_REMEDY = "install PyAV, which reads it: pip install 'soundstorm-env[av]'"
"""What to do where a file needs ffmpeg and there is none."""

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
"""Where in a file which bytes tell what."""


def is_audio(path: str) -> bool:
    """Whether the ending of `path`, a path or URI, is that of a recording, whatever its case."""
    return path.lower().endswith(AUDIO_SUFFIXES)


def needs_ffmpeg(path: str) -> bool:
    """Whether a recording of this name can be read with PyAV alone, as far as the name tells: the content decides."""
    return path.lower().endswith(FFMPEG_SUFFIXES)


def container_of(head: bytes) -> str | None:
    """What a file that ffmpeg may read begins as, in words, from its first bytes; None for anything else, a text or a
    picture."""
    for offset, magic, name in _CONTAINERS:
        if head[offset : offset + len(magic)] == magic:
            return name
    return None
