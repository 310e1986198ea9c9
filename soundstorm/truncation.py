"""Recognises WAV and Ogg files that were cut short.

libsndfile opens such files without complaint and reports the frames that are left, so their containers are checked here.
FLAC and MP3 need no such check: decoding them gives fewer frames than their headers promise.
"""

import struct

_STREAMED_SIZE = 0x7FFF0000
"""A WAV chunk size from here on is the placeholder of a program that wrote to a pipe: it promises nothing."""
_OGG_HEADER_BYTES = 27
_OGG_LAST_PAGE = 0x04


def missing_end(data: bytes) -> str | None:
    """What a WAV (RIFF, RIFX, RF64) or Ogg file lacks, as a phrase; None if it is whole or is of another kind."""
    if data[:4] in (b"RIFF", b"RIFX", b"RF64"):
        return _missing_wav_end(data)
    if data[:4] == b"OggS":
        return _missing_ogg_end(data)
    return None


def _missing_wav_end(data: bytes) -> str | None:
    """Walks the chunks up to `data` and compares its size with what the file holds."""
    byte_order = ">" if data[:4] == b"RIFX" else "<"
    position, long_data_size = 12, None
    while position + 8 <= len(data):
        name = data[position : position + 4]
        (size,) = struct.unpack_from(f"{byte_order}I", data, position + 4)
        position += 8
        if name == b"ds64" and position + 16 <= len(data):
            (long_data_size,) = struct.unpack_from("<Q", data, position + 8)
        if name == b"data":
            if size >= _STREAMED_SIZE:
                size = long_data_size or 0
            held = len(data) - position
            return f"the header promises {size} bytes of audio, the file holds {held}" if size > held else None
        position += size + size % 2
    return None if position == len(data) else "the file ends before its audio"


def _missing_ogg_end(data: bytes) -> str | None:
    """The last page must be complete and carry the end-of-stream flag (RFC 3533, section 6)."""
    start = data.rfind(b"OggS")
    page = data[start:]
    if len(page) < _OGG_HEADER_BYTES or len(page) < _OGG_HEADER_BYTES + page[26]:
        return "the file ends within the header of an Ogg page"
    lengths = page[_OGG_HEADER_BYTES : _OGG_HEADER_BYTES + page[26]]
    if len(page) < _OGG_HEADER_BYTES + len(lengths) + sum(lengths):
        return "the file ends within an Ogg page"
    return None if page[5] & _OGG_LAST_PAGE else "the last Ogg page is missing"
