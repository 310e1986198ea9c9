"""Detects truncated files from the sizes that their containers declare.

libsndfile opens such files without complaint and reports only the frames that are left, so this module parses the
containers itself. FLAC and MP3 need no such check: decoding them gives fewer frames than their headers state.
"""

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

_STREAMED_SIZE = 0x7FFF0000
"""A 32-bit chunk size of at least this is a placeholder, written by a program that wrote to a pipe; it says nothing
about the size."""
_OGG_HEADER_BYTES = 27
_OGG_LAST_PAGE = 0x04
_OGG_PAGE_BYTES = _OGG_HEADER_BYTES + 255 + 255 * 255
_MAX_CHUNKS = 10_000
_FARTHEST = 2**62


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A chunk of a container file."""

    name: bytes
    start: int
    """Position of its content in the file, in bytes."""
    size: int
    """Size of its content in bytes according to its header."""


def size_of(file: BinaryIO) -> int:
    """Size of the file in bytes."""
    return file.seek(0, os.SEEK_END)


def read_at(file: BinaryIO, position: int, size: int) -> bytes:
    """Up to `size` bytes from `position`, which may be anywhere if a header is damaged."""
    if position >= _FARTHEST:
        return b""
    file.seek(position)
    return file.read(size)


def missing_end(file: BinaryIO) -> str | None:
    """What is missing from a truncated WAV, AIFF, W64, CAF, AU or Ogg file, as a phrase; None if the file is complete
    or of another kind."""
    magic = read_at(file, 0, 4)
    if magic == b"OggS":
        return _missing_ogg_end(file)
    if magic in (b".snd", b"dns."):
        start, size = struct.unpack(">II" if magic == b".snd" else "<II", read_at(file, 4, 8).ljust(8, b"\0"))
        return _compared(start, 0 if size >= _STREAMED_SIZE else size, size_of(file))
    walk = _WALKS.get(magic)
    return None if walk is None else _missing_chunk(file, walk(file))


def riff_chunks(file: BinaryIO) -> Iterator[Chunk]:
    """The chunks of a RIFF, RIFX, RF64 or (big-endian) FORM file; for RF64 the size of the audio comes from the ds64
    chunk."""
    order = ">" if read_at(file, 0, 4) in (b"RIFX", b"FORM") else "<"
    position, long_data_size = 12, 0
    while len(head := read_at(file, position, 8)) == 8:
        name, size = head[:4], struct.unpack(f"{order}I", head[4:])[0]
        position += 8
        if name == b"ds64":
            long_data_size = struct.unpack("<Q", read_at(file, position + 8, 8).ljust(8, b"\0"))[0]
        if name in (b"data", b"SSND") and size >= _STREAMED_SIZE:
            size = long_data_size
        yield Chunk(name=name, start=position, size=size)
        position += size + size % 2


def _w64_chunks(file: BinaryIO) -> Iterator[Chunk]:
    position = 40
    while len(head := read_at(file, position, 24)) == 24:
        size = max(24, struct.unpack("<Q", head[16:])[0])
        yield Chunk(name=head[:4], start=position + 24, size=size - 24)
        position += size + -size % 8


def _caf_chunks(file: BinaryIO) -> Iterator[Chunk]:
    position = 8
    while len(head := read_at(file, position, 12)) == 12:
        size = max(0, struct.unpack(">q", head[4:])[0])  # -1 means: up to the end of the file
        yield Chunk(name=head[:4], start=position + 12, size=size)
        position += 12 + size


_WALKS: dict[bytes, Callable[[BinaryIO], Iterator[Chunk]]] = {
    b"RIFF": riff_chunks, b"RIFX": riff_chunks, b"RF64": riff_chunks, b"FORM": riff_chunks, b"riff": _w64_chunks,
    b"caff": _caf_chunks,
}  # fmt: skip


def _missing_chunk(file: BinaryIO, chunks: Iterator[Chunk]) -> str | None:
    """Finds the audio chunk and compares its declared size with the size of the file."""
    held, end = size_of(file), 0
    for _, chunk in zip(range(_MAX_CHUNKS), chunks, strict=False):
        if chunk.name in (b"data", b"SSND", b"BODY"):
            return _compared(chunk.start, chunk.size, held)
        end = chunk.start + chunk.size
    return None if held in (end, end + 1) else "the file ends before its audio"


def _compared(start: int, size: int, held: int) -> str | None:
    short = f"the header says {size} bytes of audio, but the file has {max(0, held - start)}"
    return short if start + size > held else None


def _missing_ogg_end(file: BinaryIO) -> str | None:
    """The last page must be complete and have the end-of-stream flag (RFC 3533, section 6)."""
    end = read_at(file, max(0, size_of(file) - 2 * _OGG_PAGE_BYTES), 2 * _OGG_PAGE_BYTES)
    page = end[max(0, end.rfind(b"OggS")) :]
    if len(page) < _OGG_HEADER_BYTES or len(page) < _OGG_HEADER_BYTES + page[26]:
        return "the file ends within the header of an Ogg page"
    lengths = page[_OGG_HEADER_BYTES : _OGG_HEADER_BYTES + page[26]]
    if len(page) < _OGG_HEADER_BYTES + len(lengths) + sum(lengths):
        return "the file ends within an Ogg page"
    return None if page[5] & _OGG_LAST_PAGE else "the last Ogg page is missing"
