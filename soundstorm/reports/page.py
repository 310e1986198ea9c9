"""What pages are made of: numbers as people read them, files as addresses that hold them, pictures for light and
dark."""

import base64
import math
from collections.abc import Callable, Mapping
from typing import Any

from soundstorm.reports.style import DARK, LIGHT, Theme


def themed(draw: Callable[[Theme], bytes]) -> dict[str, str]:
    """A picture for light and for dark pages, as addresses."""
    return {name: data_uri(draw(theme), "image/png") for name, theme in (("light", LIGHT), ("dark", DARK))}


def data_uri(data: bytes, mime_type: str) -> str:
    """A file as an address that holds it."""
    return f"data:{mime_type};base64,{base64.b64encode(data).decode()}"


def decimal(value: float, decimals: int) -> str:
    """A number with so many digits after the point; a tiny or huge one as a power of ten."""
    if value != 0 and (abs(value) < 0.5 * 10**-decimals or abs(value) >= 1e9):
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa} × 10^{int(exponent)}".replace("-", "−")
    return f"{value:,.{decimals}f}".replace("-", "−").replace(",", "\u202f")


def percent(value: float | None) -> str:
    """A difference in percent, with its sign."""
    if value is None:
        return "n/a"
    if math.fabs(value) < 0.05:
        return "0.0%"
    digits = 1 if math.fabs(value) < 99.95 else 0
    text = f"{value:+,.{digits}f}%" if math.fabs(value) < 1e6 else f"{value:+.0e}%"
    return text.replace("-", "−").replace(",", "\u202f")


def thousands(count: int) -> str:
    """A count, its thousands set apart."""
    return f"{count:,}".replace(",", "\u202f")


def setting_groups(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Settings as tables of names and texts; a value that is a mapping makes a table of its own."""
    groups: dict[str, Mapping[str, Any]] = {
        name: value for name, value in settings.items() if isinstance(value, Mapping)
    }
    flat = {name: value for name, value in settings.items() if not isinstance(value, Mapping)}
    if flat:
        groups = {"run": flat, **groups}
    return [
        {"name": name, "rows": [(key, _setting(value)) for key, value in values.items()]}
        for name, values in groups.items()
    ]


def _setting(value: Any) -> str:
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {_setting(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_setting, value)) or "—"
    return str(value)
