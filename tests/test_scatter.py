"""Figures of points and bars: SVG that can be parsed, with what it should show."""

from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

from limoe.reporting.scatter import Dot, bars_plot, dots_plot

DOTS = [Dot(0.001, 1.0), Dot(0.002, 2.0, 1.5, 2.5, best=True), Dot(0.01, None)]


def texts(uri: str) -> list[str]:
    kind, _, svg = uri.partition(",")
    assert kind == "data:image/svg+xml"
    root = ElementTree.fromstring(unquote(svg))
    return [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_dots_say_what_they_are() -> None:
    found = texts(
        dots_plot(DOTS, title="optimizer.lr", x_label="rate", y_label="loss", stairs=[(0.001, 1.0), (0.002, 2)])
    )
    assert {"optimizer.lr", "rate", "loss", "point", "best", "no value", "best so far"} <= set(found)


@pytest.mark.parametrize(
    ("high", "ticks"), [(0.01, ["0.001", "0.002", "0.005", "0.01"]), (0.1, ["0.001", "0.003", "0.01", "0.03", "0.1"])]
)
def test_logarithmic_axes_have_round_numbers(high: float, ticks: list[str]) -> None:
    found = texts(dots_plot([Dot(0.001, 1.0), Dot(high, 2.0)], title="t", x_label="x", y_label="y", log=True))
    assert found[: len(ticks)] == ticks


def test_choices_are_columns_and_shares_are_percent() -> None:
    dots = [Dot(0, 0.25), Dot(1, 0.75, best=True)]
    found = texts(dots_plot(dots, title="t", x_label="x", y_label="y", percent=True, names=["bpr", "[a,b]"]))
    assert found[:2] == ["bpr", "[a,b]"] and any(text.endswith("%") for text in found)


def test_only_points_without_values_can_be_drawn() -> None:
    assert "no value" in texts(dots_plot([Dot(1, None)], title="t", x_label="x", y_label="y"))


def test_bars() -> None:
    found = texts(bars_plot({"optimizer.lr": 0.75, "priority": 0.25}, title="Importance", x_label="share"))
    assert {"optimizer.lr", "priority", "Importance", "share", "100%"} <= set(found)
