"""Which files are recordings, by the endings of their names, and what reads them: libsndfile, or ffmpeg through PyAV."""

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


def is_audio(path: str) -> bool:
    """Whether the ending of `path`, a path or URI, is that of a recording, whatever its case."""
    return path.lower().endswith(AUDIO_SUFFIXES)


def needs_ffmpeg(path: str) -> bool:
    """Whether a recording of this name can be read with PyAV alone, as far as the name tells: the content decides."""
    return path.lower().endswith(FFMPEG_SUFFIXES)
