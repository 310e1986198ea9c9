"""Requests that an endpoint must refuse with a sentence: by what is wrong with them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from soundstorm.audio.files import RejectedAudio, encode_audio, read_audio
from soundstorm.audio.synthesis import synthesize

EDITS = ("continue", "inpaint", "vary")


@dataclass(frozen=True)
class Bad:
    """A request that cannot be answered with a sound."""

    what: str
    path: str
    """Below /v1/."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Of httpx."""

    def __str__(self) -> str:
        return self.what


GOOD = encode_audio(synthesize("rain", 1, 0.6, 24_000), 24_000, "wav")
FLAC = encode_audio(synthesize("rain", 1, 0.6, 24_000), 24_000, "flac")
NOT_NUMBERS = ("x", "nan", "inf", "-inf", "1e999", "0x10", "1,5", "٣x", "1" * 400, "null", "[1]")
FORM_FIELDS: dict[str, dict[str, tuple[str, ...]]] = {
    "continue": {
        "prompt_duration_s": (*NOT_NUMBERS, "0", "-1", "1", "2"),
        "duration_s": (*NOT_NUMBERS, "0", "-3", "0.01", "61", "1e9"),
        "seed": (*NOT_NUMBERS, "1.5", "-1", "9223372036854775808"),
        "format": ("mp3", "FLAC", "wav\r\nX-Evil: 1"),
        "category": ("", "no such class", "x" * 300, "\ud7ff", "../../etc/passwd", "🦆", "' OR 1=1"),
    },
    "inpaint": {
        "region": (
            *NOT_NUMBERS,
            "",
            "0.5",
            "0.5-",
            "-0.5",
            "0.5-0.4",
            "0.5-0.5",
            "0-0.001",
            "0.5-9",
            "0.1-0.2-0.3",
            "a-b",
        ),
        "seed": ("1.5", "-1"),
        "loop": ("perhaps", "2"),
        "category": ("", "no such class"),
    },
    "vary": {
        "strength": (*NOT_NUMBERS, "-0.1", "1.1"),
        "kept_levels": (*NOT_NUMBERS, "1.5", "-1", "1000"),
        "seed": ("1.5", "-1"),
        "loop": ("perhaps",),
        "category": ("", "no such class"),
    },
}
JSON_FIELDS: dict[str, tuple[Any, ...]] = {
    "category": (None, 5, [], {}, "", "no such class", "x" * 300, "\ud800", ["rain"], True),
    "duration_s": (None, "x", [], {}, -1, 0, 0.01, 61, 1e300, 10**400, float("nan"), float("inf"), "nan"),
    "seed": ("x", [], {}, 1.5, -1, 1 << 63, 10**300, float("nan")),
    "loop": ("perhaps", [], 2, {}),
    "format": ("mp3", None, 3, ["flac"], ""),
    "unknown": (1,),
}
WHOLE: dict[str, dict[str, str]] = {
    "continue": {"category": "rain", "prompt_duration_s": "0.2", "duration_s": "1", "seed": "1"},
    "inpaint": {"category": "rain", "region": "0.1-0.3", "seed": "1"},
    "vary": {"category": "rain", "strength": "0.5", "seed": "1"},
}


def requests() -> list[Bad]:
    """All of them, each once."""
    return [*_bodies(), *_json(), *_forms(), *_recordings(), *_addresses()]


def _bodies() -> Iterator[Bad]:
    """Bodies that are no JSON, no form, or one in another place."""
    bodies = {
        "nothing": b"", "text": b"rain, please", "half": b'{"category": "ra', "list": b"[]", "number": b"7",
        "null": b"null", "zeros": bytes(500), "random": np.random.default_rng(0).bytes(500), "xml": b"<a/>",
        "deep": b"[" * 5000, "bom": b"\xff\xfe{\x00}\x00", "twice": b"{}{}", "comment": b"{//}",
    }  # fmt: skip
    kinds = ("application/json", "text/plain", "multipart/form-data; boundary=x", "multipart/form-data", "")
    for (name, body), kind, path in product(bodies.items(), kinds, ("generate", "vary")):
        yield Bad(f"{path} {name} as {kind or 'nothing'}", path, {"content": body, "headers": {"content-type": kind}})


def _json() -> Iterator[Bad]:
    for name, values in JSON_FIELDS.items():
        for number, value in enumerate(values):
            content = json.dumps({"category": "rain", "duration_s": 0.5, "seed": 1} | {name: value})
            headers = {"content-type": "application/json"}
            yield Bad(f"generate {name} {number}", "generate", {"content": content, "headers": headers})


def _forms() -> Iterator[Bad]:
    for path, values_by_name in FORM_FIELDS.items():
        file = {"recording": ("a.wav", GOOD)}
        for name in ("category", "recording"):
            form = {key: value for key, value in WHOLE[path].items() if key != name}
            yield Bad(f"{path} without {name}", path, {"data": form, "files": file if name == "category" else {}})
        for name, values in values_by_name.items():
            for number, value in enumerate(values):
                yield Bad(f"{path} {name} {number}", path, {"data": WHOLE[path] | {name: value}, "files": file})
    loop = {"category": "rain", "loop": "true"}
    yield Bad("inpaint nothing", "inpaint", {"data": {"category": "rain"}, "files": file})
    short = {"recording": ("a.wav", encode_audio(np.zeros(2_400), 24_000, "wav"))}
    yield Bad("inpaint a loop too short", "inpaint", {"data": loop, "files": short})
    yield Bad("vary a loop too short", "vary", {"data": loop, "files": short})
    many = {"category": "rain", "region": ["0.1-0.2"] * 100}
    yield Bad("inpaint a hundred regions", "inpaint", {"data": many, "files": file})
    nothing_new = {"category": "rain", "strength": "0", "kept_levels": "32"}
    yield Bad("vary nothing", "vary", {"data": nothing_new, "files": file})


def _recordings() -> Iterator[Bad]:
    """Files that are no recordings, under names that say they are, and recordings that are broken."""
    files = {
        "empty": b"", "text": b"I am a dog.", "zeros": bytes(2000), "random": np.random.default_rng(1).bytes(2000),
        "png": b"\x89PNG\r\n\x1a\n" + bytes(100), "zip": b"PK\x03\x04" + bytes(200), "html": b"<html>" * 50,
        "riff": b"RIFF\xff\xff\xff\xffWAVE", "header alone": GOOD[:44], "half": GOOD[: len(GOOD) // 2],
        "half a flac": FLAC[: len(FLAC) // 2], "flac mark": b"fLaC", "ogg mark": b"OggS" + bytes(50),
        "mp3 mark": b"ID3\x04" + bytes(60), "path": b"/etc/passwd", "playlist": b"#EXTM3U\nhttp://127.0.0.1/a.wav\n",
        "concat": b"ffconcat version 1.0\nfile /etc/passwd\n", "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\n",
    }  # fmt: skip
    names = ("a.wav", "../../etc/passwd", "a.flac\x00.txt")
    for (what, content), path in product(files.items(), EDITS):
        name = names[len(what) % len(names)]
        yield Bad(f"{path} {what}", path, {"data": WHOLE[path], "files": {"recording": (name, content)}})
    for number, content in enumerate(_damaged()):
        path = EDITS[1 + number % 2]  # a continuation takes what it needs, and may not come to the damage
        yield Bad(f"{path} broken {number}", path, {"data": WHOLE[path], "files": {"recording": ("a.wav", content)}})


def _damaged() -> Iterator[bytes]:
    """Recordings with wrong bytes in their header, as far as those are no recordings any more."""
    random = np.random.default_rng(2)
    for good in (GOOD, FLAC) * 40:
        content = bytearray(good)
        content[int(random.integers(44))] = int(random.integers(256))
        try:
            read_audio(bytes(content))
        except RejectedAudio:
            yield bytes(content)


def _addresses() -> Iterator[Bad]:
    for path in ("generat", "", "generate/", "generate/5", "../v1", "recipes/1", "%00", "classes%2f"):
        yield Bad(f"address {path!r}", path, {"content": b"{}"})
