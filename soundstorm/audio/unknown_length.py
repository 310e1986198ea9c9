"""Audio files whose header does not state their length: WAV files of "0 bytes", and MP3 files without a Xing header.

Programs that write to a pipe, or are interrupted, leave such files. libsndfile reports the WAV files as empty, and
estimates the length of the MP3 files from their first frames: 5 s at a variable bit rate may be read as 1.6 s. This
module adds the missing header.
"""

import io
import os
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

from soundstorm.audio.truncation import read_at, riff_chunks, size_of

_BLOCK_BYTES = 1 << 20
_MAX_JUNK_BYTES = 1 << 16
"""Bytes between two MP3 frames that are skipped at most."""
_MIN_FRAMES = 2
"""Fewer frames than this do not make an MP3 file: four bytes may look like a frame header by chance."""
_MPG123_DELAY = 529
"""Samples that mpg123 drops at the start of a file with a Xing header, to compensate for its own delay."""
_KBPS = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates of layer III by MPEG version; key 2 stands for versions 2 and 2.5 (ISO/IEC 11172-3 and 13818-3)."""
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""Sample rates by the two version bits of a frame header."""


class Spliced(io.RawIOBase):
    """A readable file whose first bytes are replaced.

    Args:
        first: replaces all bytes before `start`.
        file: the file.
        start: position in `file` from which on it is unchanged.
    """

    def __init__(self, first: bytes, file: BinaryIO, start: int) -> None:
        self._first, self._file, self._start = first, file, start
        self._size = len(first) + max(0, size_of(file) - start)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        size = len(buffer)
        content = self._first[self._position : self._position + size]
        rest = self._position + len(content) - len(self._first)
        if rest >= 0 and len(content) < size:
            content += read_at(self._file, self._start + rest, size - len(content))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


def with_length(file: BinaryIO) -> tuple[BinaryIO, int]:
    """The file with a header that states its length, added if its own does not, and the number of samples that the new
    header adds at the start and that must be skipped."""
    magic, foreign = read_at(file, 0, 4), 0
    if magic in (b"RIFF", b"RIFX"):
        file = _wav_with_length(file, ">I" if magic == b"RIFX" else "<I")
    elif magic[:3] == b"ID3" or _frame_bytes(magic):
        file, foreign = _mp3_with_length(file)
    file.seek(0)
    return file, foreign


def _wav_with_length(file: BinaryIO, order: str) -> BinaryIO:
    """If a data chunk of 0 bytes is followed by something other than chunks, everything that follows is its audio."""
    held = size_of(file)
    chunks = riff_chunks(file)
    for chunk in chunks:
        if chunk.name == b"data":
            if chunk.size or chunk.start >= held:
                return file
            end = chunk.start
            for later in chunks:
                end = later.start + later.size
                if not later.name.isascii() or not later.name.decode().isprintable() or end > held:
                    break
            if held in (end, end + 1) and end > chunk.start:
                return file  # chunks follow up to the end of the file: its audio is really empty
            header = read_at(file, 0, chunk.start - 4) + struct.pack(order, min(held - chunk.start, 0x7FFEFFFF))
            return Spliced(header, file, chunk.start)  # type: ignore[return-value]
    return file


def _mp3_with_length(file: BinaryIO) -> tuple[BinaryIO, int]:
    """MP3 frames preceded by a Xing header with their number.

    mpg123 drops the first 529 samples of a file with such a header, to compensate for its own delay. Therefore a frame
    of silence is inserted before the others.
    """
    start = 0
    while (tag := read_at(file, start, 10))[:3] == b"ID3" and len(tag) == 10:
        start += 10 + sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
    head = read_at(file, start, 192)
    if not _frame_bytes(head[:4]) or any(name in head for name in (b"Xing", b"Info", b"VBRI")):
        return file, 0
    count = sum(1 for _ in _frames(file, start))
    if count < _MIN_FRAMES:
        return file, 0
    samples = 1152 if head[1] >> 3 & 3 == 3 else 576
    return Spliced(_first_frames(head[:4], count, size_of(file) - start), file, start), samples - _MPG123_DELAY  # type: ignore[return-value]


def _frame_bytes(header: bytes) -> int:
    """Length of the layer III frame that starts with these four bytes; 0 if they are not a frame header, or do not
    state a length."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    version, bitrate, rate, padding = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or bitrate in (0, 15) or rate == 3:
        return 0
    kbps = _KBPS[1 if version == 3 else 2][bitrate]
    return (144_000 if version == 3 else 72_000) * kbps // _RATES[version][rate] + padding


def _frames(file: BinaryIO, start: int) -> Iterator[int]:
    """Position of each complete frame from `start` on."""
    file.seek(start)
    held, first, junk = b"", start, 0  # `held` are the bytes read from position `first` on and not yet parsed
    at = 0
    while True:
        if at + 4 > len(held):
            block = file.read(_BLOCK_BYTES)
            held, first, at = held[at:] + block, first + at, 0
            if len(held) < 4 or not block:
                return
        size = _frame_bytes(held[at : at + 4])
        if not size:
            junk += 1
            if junk > _MAX_JUNK_BYTES:
                return
            at += 1
            continue
        if at + size > len(held):
            block = file.read(_BLOCK_BYTES)
            held, first, at = held[at:] + block, first + at, 0
            if size > len(held):
                return
        yield first + at
        junk, at = 0, at + size


def _first_frames(header: bytes, count: int, num_bytes: int) -> bytes:
    """A Xing header frame, which states the number of frames, and a frame of silence, to precede `count` frames in the
    format of `header` that have `num_bytes` in all."""
    is_mono, is_first = header[3] >> 6 == 3, header[1] >> 3 & 3 == 3
    side_bytes = (17 if is_mono else 32) if is_first else (9 if is_mono else 17)
    for bitrate in range(1, 15):
        head = bytes([0xFF, header[1] | 1, bitrate << 4 | header[2] & 0x0C, header[3]])
        size = _frame_bytes(head)
        xing = (
            b"Xing"
            + struct.pack(">III", 7, count + 1, num_bytes + 2 * size)
            + bytes(255 * place // 100 for place in range(100))
        )
        content = head + bytes(side_bytes) + xing
        if len(content) <= size:
            break
    return content.ljust(size, b"\0") + head.ljust(size, b"\0")
