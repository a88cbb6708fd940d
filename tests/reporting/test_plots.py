"""Figures of curves and shares, odd ones too."""

import re
import warnings
from html import escape
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from limoe.reporting.plots import MAX_POINTS, STYLE, Line, _mix, data_uri, lines_plot, share_plot, thinned

NAMESPACE = "{http://www.w3.org/2000/svg}"


def test_long_curves_become_means_of_neighbours() -> None:
    curve = {step: float(step) for step in range(2 * MAX_POINTS)}
    steps, values = thinned(curve)
    assert len(steps) == MAX_POINTS
    assert (steps[0], values[0], values[-1]) == (0.5, 0.5, 2 * MAX_POINTS - 1.5)  # means of pairs
    assert thinned({0: 1.0, 1: 2.0, 2: 6.0}, limit=2) == ([0.5, 2.0], [1.5, 6.0])


@pytest.mark.parametrize("values", [[], [float("nan")], [float("inf"), 1.0], [0.0] * 3])
def test_curves_of_odd_values_and_titles_that_look_like_formulas(values: list[float]) -> None:
    plot = lines_plot([Line("x", range(len(values)), values, "#000000")], title="$\\frac$", y_label="y", percent=True)
    assert plot.startswith("data:image/svg+xml,%3Csvg")


def test_whom_an_expert_serves_counts_tokens() -> None:
    """Equal shares of 300 image and 100 text assignments: three quarters of every bar are images."""
    axes = Figure().subplots()
    _mix(axes, [share * 300 for share in (0.5, 0.5, 0.0)], [share * 100 for share in (0.5, 0.5, 0.0)])
    bars: Any = axes.patches
    assert [bar.get_height() for bar in bars] == [0.75, 0.75, 0.25, 0.25]  # no token chose the third expert
    equal, counted = (
        share_plot(image=[0.5, 0.5], text=[0.5, 0.5], title="t", assignments=numbers)
        for numbers in ((1, 1), (300, 100))
    )
    assert equal != counted


@pytest.mark.parametrize(("image", "text"), [([], []), ([0.0, 1.0], [0.0, 1.0]), ([1.0], [])])
def test_shares_with_idle_experts_or_one_modality(image: list[float], text: list[float]) -> None:
    assert share_plot(image=image, text=text, title="t").startswith("data:image/svg+xml,%3Csvg")


def svg_of(**changes: object) -> str:
    lines = [
        Line(name, range(50), [n + x / 7 for x in range(50)], "#0072b2", low=[n] * 50, high=[n + 8] * 50)
        for n, name in enumerate("abc")
    ]
    return unquote(lines_plot(lines, **{"title": "t", "y_label": "y", **changes}).partition(",")[2])


def test_a_figure_is_whole_the_same_every_time_and_leads_nowhere() -> None:
    svg = svg_of(title="<title> & more")
    assert svg == svg_of(title="<title> & more")
    texts = {element.text for element in ElementTree.fromstring(svg).iter(f"{NAMESPACE}text")}
    assert {"<title> & more", *"abc"} <= texts
    assert not re.sub(r'xmlns(:xlink)?="http://www.w3.org/[^"]*"', "", svg).count("http")


def test_texts_and_grid_have_other_colours_on_dark_pages() -> None:
    """The rules name the colours of the style as matplotlib writes them."""
    svg = svg_of()
    rules = svg[svg.index("<style>") : svg.index("</style>")]
    assert rules.startswith("<style>@media (prefers-color-scheme:dark){")
    for name, colour in (
        ("fill", STYLE["text.color"]),
        ("stroke", STYLE["axes.edgecolor"]),
        ("stroke", STYLE["grid.color"]),
    ):
        assert f"{name}: {colour}" in svg.partition("</style>")[2]
        assert f'[style*="{name}: {colour}"]{{{name}:#' in rules


def test_texts_that_xml_forbids_are_shown_as_unknown() -> None:
    with warnings.catch_warnings(action="ignore"):  # no font has these
        svg = svg_of(title="a\x00<b>")
    assert "a\ufffd<b>" in {element.text for element in ElementTree.fromstring(svg).iter(f"{NAMESPACE}text")}


def test_a_data_uri_needs_no_escaping_in_html() -> None:
    svg = "<svg a=\"1\" b='2'>#5 100% & ü</svg>"
    uri = data_uri(svg)
    assert escape(uri) == uri and "#" not in uri
    assert unquote(uri.removeprefix("data:image/svg+xml,")) == svg
