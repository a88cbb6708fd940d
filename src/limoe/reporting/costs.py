"""Tables of `limoe info` for the terminal, at most 80 columns wide."""

from typing import Any

from rich.console import RenderableType
from rich.markdown import Markdown

from limoe.reporting.templates import template

_THOUSANDS = ("", "k", "M", "G", "T", "P", "E")
_OF_PARAMETERS = ("", "k", "M", "B", "T")


def cost_tables(info: dict[str, Any], *, title: str) -> RenderableType:
    """All entries of `info` as small tables."""
    baselines = {"dense baseline": info.get("dense_baseline"), "two-tower baseline": info.get("two_tower_baseline")}
    slots = info["capacity"]
    text = template("reporting/costs.md.j2", parameters=parameters, number=number, gib=gib).render(
        title=title,
        info=info,
        baselines={name: baseline for name, baseline in baselines.items() if baseline is not None},
        slots=slots.get("towers", {slots.get("tokens"): slots}),
    )
    return Markdown(text)


def number(value: float, *, units: tuple[str, ...] = _THOUSANDS) -> str:
    """Four significant digits with a unit prefix: 353.7 G, 20.19 G, 72."""
    power, scaled = 0, float(value)
    while scaled >= 999.95 and power < len(units) - 1:
        power, scaled = power + 1, scaled / 1000
    digits = 0 if power == 0 and scaled == round(scaled) else 4 - len(str(int(scaled)))
    return f"{scaled:.{digits}f} {units[power]}".rstrip()


def parameters(value: float) -> str:
    """A number as `number` writes it, with B for 10^9."""
    return number(value, units=_OF_PARAMETERS)


def gib(value: float | None) -> str:
    """Bytes in GiB, or in MiB below a tenth of one."""
    if value is None:
        return "unknown"
    return f"{value / 2**30:.2f} GiB" if value >= 0.1 * 2**30 else f"{value / 2**20:.2f} MiB"
