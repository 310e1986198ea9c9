"""What pages are made of: numbers as people read them (filters of the templates), files as addresses that hold them,
pictures for light and dark."""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Protocol

from jinja2 import Environment, PackageLoader, StrictUndefined

from soundstorm.reports.style import DARK, LIGHT, Theme

NO_SCRIPTS = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Content security policy of a page that asks nothing of any server and has no script."""


class PageData(Protocol):
    """What every page has."""

    @property
    def title(self) -> str: ...

    @property
    def generated_at(self) -> datetime: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...


def render_page(
    template: str,
    data: PageData,
    *,
    policy: str = NO_SCRIPTS,
    num_columns: int = 1,
    credits: Sequence[str] = (),
    **values: Any,
) -> str:
    """A page from `template`, which extends `page.html.j2`; texts from `data` and `values` are escaped.

    Args:
        template: name of the file in `templates/`.
        data: title, time and settings, shown on every page.
        policy: content security policy.
        num_columns: columns of players.
        credits: lines of the footer.
        values: what this template needs beside.
    """
    page = _environment().get_template(template)
    return page.render(
        data=data,
        made=f"{data.generated_at.day} {data.generated_at:%B %Y, %H:%M %Z}".strip(),
        groups=setting_groups(data.settings),
        policy=policy,
        num_columns=num_columns,
        credits=credits,
        **values,
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("soundstorm.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (decimal, figure, mean_share, p_value, percent, points, setting, share, thousands)
    environment.filters |= {each.__name__: each for each in filters}
    return environment


def themed(draw: Callable[[Theme], bytes]) -> dict[str, str]:
    """A picture for light and for dark pages, as addresses."""
    return {name: data_uri(draw(theme), "image/png") for name, theme in (("light", LIGHT), ("dark", DARK))}


def data_uri(data: bytes, mime_type: str) -> str:
    """A file as an address that holds it."""
    return f"data:{mime_type};base64,{base64.b64encode(data).decode()}"


def typeset(number: str) -> str:
    """A formatted number with a minus sign for its hyphen and thin spaces for its commas."""
    return number.replace("-", "−").replace(",", "\u202f")


def p_value(probability: float, decimals: int = 3) -> str:
    """A probability of chance."""
    return "p < 0.001" if probability < 0.001 else f"p = {probability:.{decimals}f}"


def decimal(value: float | None, decimals: int) -> str:
    """A number with so many digits after the point; a tiny or huge one as a power of ten."""
    if value is None:
        return "n/a"
    if value != 0 and (abs(value) < 0.5 * 10**-decimals or abs(value) >= 1e9):
        mantissa, exponent = f"{value:.1e}".split("e")
        return typeset(f"{mantissa} × 10^{int(exponent)}")
    return typeset(f"{value:,.{decimals}f}")


def share(value: float | None, decimals: int = 1) -> str:
    """A share in percent."""
    return "n/a" if value is None else f"{100 * value:.{decimals}f}%"


def mean_share(mean: float, std: float | None) -> str:
    """Mean and standard deviation of shares, in percent."""
    return share(mean) if std is None else f"{100 * mean:.1f} ± {100 * std:.1f}%"


def points(difference: float) -> str:
    """A difference of two shares in percentage points, with its sign."""
    return typeset(f"{100 * difference:+.1f}")


def percent(value: float | None) -> str:
    """A difference in percent, with its sign."""
    if value is None:
        return "n/a"
    if math.fabs(value) < 0.05:
        return "0.0%"
    digits = 1 if math.fabs(value) < 99.95 else 0
    return typeset(f"{value:+,.{digits}f}%" if math.fabs(value) < 1e6 else f"{value:+.0e}%")


def thousands(count: int) -> str:
    """A count, its thousands set apart."""
    return typeset(f"{count:,}")


def figure(value: Any) -> str:
    """A figure of a trial, or one of its settings."""
    if isinstance(value, float):
        return typeset(f"{value:.4g}")
    return str(value) if isinstance(value, (list, tuple, Mapping)) else setting(value)


def setting(value: Any) -> str:
    """A setting of a run."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {setting(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(setting, value)) or "—"
    return str(value)


def setting_groups(settings: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Settings as tables by name; a value that is a mapping makes a table of its own."""
    flat = {name: value for name, value in settings.items() if not isinstance(value, Mapping)}
    groups = {name: value for name, value in settings.items() if isinstance(value, Mapping)}
    return {"run": flat, **groups} if flat else groups
