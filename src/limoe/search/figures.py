"""The pictures of a search: how the best value came about, and what each parameter did to it."""

from collections.abc import Mapping, Sequence

from limoe.reporting.figures import Picture
from limoe.reporting.findings import SHARE
from limoe.reporting.scatter import Dot, bars_plot, dots_plot
from limoe.search.points import Point, best_of
from limoe.search.space import Choices
from limoe.search.spec import Search

_LABEL = 22  # characters of a choice below its column


def history(search: Search, points: Sequence[Point]) -> Picture:
    """Values in the order in which the points were drawn, and the best so far."""
    stairs: list[tuple[float, float]] = []
    ended = [point for point in points if point.ended]
    for position, point in enumerate(ended):
        best = best_of(search, ended[: position + 1])
        if best is not None and best.value is not None:
            stairs.append((point.number, best.value))
    name, dots = search.metric.name, _dots(search, points, {point.number: point.number for point in points})
    source = dots_plot(dots, title="History", x_label="point", y_label=name, percent=_percent(search), stairs=stairs)
    return Picture(source, f"{name} of each point in the order of the search, and the best so far")


def slices(search: Search, points: Sequence[Point]) -> list[Picture]:
    """One figure per parameter: value against it, whatever the others were."""
    pictures = []
    for key, parameter in search.space.items():
        own = [point for point in points if key in point.words]
        if isinstance(parameter, Choices):
            columns = {word: position for position, word in enumerate(parameter.words)}
            at = {point.number: float(columns[point.words[key]]) for point in own}
            names = [word if len(word) <= _LABEL else f"{word[: _LABEL - 1]}…" for word in columns]
        else:
            at, names = {point.number: float(point.words[key]) for point in own}, []
        source = dots_plot(
            _dots(search, own, at),
            title=key,
            x_label=f"{key} (log)" if (log := getattr(parameter, "log", False)) else key,
            y_label=search.metric.name,
            percent=_percent(search),
            log=log,
            names=names,
        )
        pictures.append(Picture(source, f"{search.metric.name} of each point against {key}"))
    return pictures


def importance(shares: Mapping[str, float]) -> Picture:
    """Which parameters set the best points apart."""
    return Picture(bars_plot(shares, title="Importance", x_label="share"), "Importance of each parameter")


def _dots(search: Search, points: Sequence[Point], at: Mapping[int, float]) -> list[Dot]:
    """Of the points that have ended; with several seeds the range between them."""
    best = best_of(search, points)
    dots = []
    for point in points:
        if not point.ended:
            continue
        values = point.outcome.values.values() if point.value is not None else ()
        low, high = (min(values), max(values)) if len(values) > 1 else (None, None)
        dots.append(
            Dot(at[point.number], point.value, low, high, best=best is not None and best.number == point.number)
        )
    return dots


def _percent(search: Search) -> bool:
    return SHARE.search(search.metric.key) is not None
