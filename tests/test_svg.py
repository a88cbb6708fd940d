"""Small SVGs that still show the same."""

from html import escape
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

from limoe.reporting.plots import Band, bands_plot
from limoe.reporting.svg import data_uri, short_path, slim

INK = {"#111111": "#eeeeee"}
HEAD = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 9 9">'


@pytest.mark.parametrize(
    ("path", "short"),
    [
        ("M 1.04 2 \nL 3.11 2.5 \nL 4 1.26\nz\n", "M1 2l2.1 .5 .9-1.2z"),  # 10, 20; 31, 25; 40, 13 in tenths
        ("M 0 0 L 0.04 0 L 0.08 0 L 0.12 0", "M0 0l0 0 .1 0"),  # errors do not add up: the end is at 0.1
        ("M 1 1 L 2 2 M 5 5 L 4 4", "M1 1l1 1M5 5l-1-1"),
        ("M -0.34 1 L 0.26 -1", "M-.3 1l.6-2"),
        ("M 0 1.25 C 0.33 1 1 0.44 1 0 z", "M 0 1.2 C 0.3 1 1 0.4 1 0 z"),  # a curve: rounded alone
    ],
)
def test_paths_become_relative_and_rounded(path: str, short: str) -> None:
    assert short_path(path) == short


def test_styles_and_names_are_written_once() -> None:
    style = 'style="fill: none; stroke: #111111; font-family: Long, List, Of, Fonts"'
    svg = (
        f'{HEAD}<metadata>who made it</metadata><g id="figure_1"><g id="axes_1">'
        f'<path id="p0123456789" d="M 0 0 L 1 1" {style}/><use xlink:href="#p0123456789" x="1.26" y="2" {style}/>'
        f'<path d="M 0 0 L 2 2" style="stroke: #222222" transform="rotate(-0 1 1)"/></g></g></svg>'
    )
    small = slim(svg, dark=INK)
    assert ".c0{fill:none;stroke:#111111}@media (prefers-color-scheme:dark){.c0{stroke:#eeeeee}}" in small
    assert '<path d="M0 0l1 1" id="i0" class="c0" />' in small
    assert '<use x="1.3" y="2" href="#i0" class="c0" />' in small
    assert '<path d="M0 0l2 2" style="stroke:#222222" />' in small
    assert not any(word in small for word in ("<g", "figure_1", "who made it", "Fonts", "rotate"))


def test_texts_that_xml_forbids_are_shown_as_unknown() -> None:
    root = ElementTree.fromstring(slim(f"{HEAD}<text>a\x00&lt;b&gt;\ud800</text></svg>", dark={}))
    assert [element.text for element in root][1] == "a\ufffd<b>\ufffd"


def test_a_data_uri_needs_no_escaping_in_html() -> None:
    svg = "<svg a=\"1\" b='2'>#5 100% & ü</svg>"
    uri = data_uri(svg)
    assert escape(uri) == uri and "#" not in uri
    assert unquote(uri.removeprefix("data:image/svg+xml,")) == svg


def test_a_figure_of_five_bands_is_small_and_whole() -> None:
    steps = list(range(50))
    bands = [
        Band(name, steps, [n + s / 7 for s in steps], [n - 0.1] * 50, [n + 9.0] * 50, "#0072b2")
        for n, name in enumerate("abcde")
    ]
    uri = bands_plot(bands, title="<title> & more", x_label="x", y_label="y")
    assert len(uri) < 15_000
    root = ElementTree.fromstring(unquote(uri.split(",", 1)[1]))
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"<title> & more", *"abcde"} <= texts
    ids = {element.get("id") for element in root.iter()}
    used = {
        value.strip("url()#") for element in root.iter() for key in ("href", "clip-path") if (value := element.get(key))
    }
    assert used and used <= ids
