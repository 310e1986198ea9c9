"""Settings files of studies for `train` and `generate`: JSON or TOML with any of the tables `model`, `training` and
`sampler`.

A file may contain further information for people, such as the trial and its result. Of this only `fold`, `threads`
(with which `train` reproduces the arithmetic of the trial) and `preset` (for settings that the tables do not name) are
used.
"""

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from soundstorm.errors import SoundStormError
from soundstorm.model.config import ModelConfig, SamplerSettings, TrainingConfig
from soundstorm.model.presets import PRESETS
from soundstorm.serialization.damaged import one_line

TABLES = ("model", "training", "sampler")
IGNORED_TABLES = ("searched", "trained")
"""Tables for people, which are ignored."""
INTEGERS = {"fold": (0, 1_000_000), "threads": (1, 4_096)}
"""Minimum and maximum of the integers that are used."""


@dataclass(kw_only=True, frozen=True)
class SettingsOverrides:
    """Content of a settings file; missing tables are empty."""

    where: str
    """The file, for errors."""
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    sampler: dict[str, Any] = field(default_factory=dict)
    fold: int | None = None
    """The validation fold of the trial."""
    threads: int | None = None
    """Threads of PyTorch in the trial."""
    preset: str | None = None
    """Name of the preset that the study started from."""

    def model_over(self, base: ModelConfig, *, is_trained: bool = False) -> ModelConfig:
        """`base` with the values of the file.

        Args:
            base: values for settings that the file does not name.
            is_trained: `base` has trained weights, so nothing but the dropout may change.

        Raises:
            SoundStormError: an unknown name or a value out of range; also in the two methods below.
        """
        model = ModelConfig.from_dict(base.to_dict() | self.model, f"{self.where}, table 'model'")
        if is_trained and replace(model, dropout=base.dropout) != base:
            raise SoundStormError(
                f"{self.where}: its network differs from that of --checkpoint: leave out one of the two"
            )
        return model

    def training_over(self, base: TrainingConfig) -> TrainingConfig:
        """`base` with the values of the file."""
        return TrainingConfig.from_dict(base.to_dict() | self.training, f"{self.where}, table 'training'")

    def sampler_over(self, base: SamplerSettings) -> SamplerSettings:
        """`base` with the values of the file."""
        return SamplerSettings.from_dict(base.to_dict() | self.sampler, f"{self.where}, table 'sampler'")

    def require(self, *tables: str) -> None:
        """Raise SoundStormError unless the file has one of `tables`."""
        if not any(getattr(self, name) for name in tables):
            named = " or ".join(f"'{name}'" for name in tables)
            raise SoundStormError(
                f"{self.where}: no table {named} in it: give best.json or best.toml of a study that searched such "
                "settings"
            )


def parse_settings(data: bytes, where: str) -> SettingsOverrides:
    """The content of a settings file; TOML where `where` ends in `.toml`, else JSON.

    Raises:
        SoundStormError: it is neither, or a table in it is none.
    """
    kind = "TOML" if where.lower().endswith(".toml") else "JSON"
    try:
        content = tomllib.loads(data.decode()) if kind == "TOML" else json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SoundStormError(
            f"{where}: no valid {kind} ({one_line(error)}): give best.json or best.toml of a study"
        ) from error
    if not isinstance(content, dict):
        raise SoundStormError(f"{where}: holds no table of settings: give best.json or best.toml of a study")
    for name in TABLES:
        if not isinstance(content.get(name, {}), dict):
            raise SoundStormError(f"{where}: '{name}' is {content[name]!r}: it must be a table of settings")
    unknown = [
        name for name, value in content.items() if isinstance(value, dict) and name not in (*TABLES, *IGNORED_TABLES)
    ]
    if unknown:
        raise SoundStormError(f"{where}: there is no table '{unknown[0]}': settings are in {', '.join(TABLES)}")
    for name, (least, most) in INTEGERS.items():
        value = content.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most):
            raise SoundStormError(f"{where}: {name} is {value!r:.40}: it must be a whole number, {least} to {most}")
    if content.get("preset") not in (None, *PRESETS):
        raise SoundStormError(
            f"{where}: preset is {str(content['preset'])[:40]!r}: it must be one of {', '.join(PRESETS)}"
        )
    return SettingsOverrides(
        where=where, **{name: content[name] for name in (*TABLES, *INTEGERS, "preset") if content.get(name) is not None}
    )


def to_json(content: Mapping[str, Any]) -> bytes:
    """A settings file in JSON, with enough digits to restore each number exactly."""
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def to_toml(content: Mapping[str, Any]) -> bytes:
    """A settings file in TOML: plain values first, then one table per mapping. None and lists of tables, which TOML
    cannot express, are left out."""
    lines = [f"{_key(key)} = {_value(value)}" for key, value in content.items() if _is_plain(value)]
    for name, table in content.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{_key(name)}]"] + [
                f"{_key(key)} = {_value(value)}" for key, value in table.items() if _is_plain(value)
            ]
    return ("\n".join(lines).lstrip("\n") + "\n").encode()


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    # JSON and TOML write strings, numbers and booleans alike, except for this character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
