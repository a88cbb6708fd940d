"""Makes matplotlib's SVG small: rounded and relative coordinates, styles and names written once."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from urllib.parse import quote
from xml.etree import ElementTree

_NAMESPACE, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_REFERENCE, _REFERRING = re.compile(r"#([\w-]+)"), (f"{_XLINK}href", "clip-path")
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
_STEP = re.compile(r"([MLz])\s*(?:(\S+) (\S+))?")
_LINES = re.compile(r"(?:[ML] \S+ \S+\s*|z\s*)+")
_PLACES = ("x", "y", "width", "height")
_FONT = "font-family"


def slim(svg: str, *, dark: Mapping[str, str]) -> str:
    """The same picture in fewer characters; coordinates are rounded to a tenth of a point.

    `dark` says which colours are others on a dark page.
    """
    ElementTree.register_namespace("", _NAMESPACE[1:-1])
    root = ElementTree.fromstring(_NOT_XML.sub("\ufffd", svg))
    references = [element.get(name, "") for element in root.iter() for name in _REFERRING]
    ids = {name: f"i{number}" for number, name in enumerate(dict.fromkeys(_REFERENCE.findall(" ".join(references))))}
    for element in root.iter():
        _shorten(element, ids=ids)
    _flatten(root)
    css = ElementTree.Element(f"{_NAMESPACE}style")
    css.text = f"*{{stroke-linejoin:round}}text{{{_FONT}:DejaVu Sans,Verdana,sans-serif}}{_classes(root, dark=dark)}"
    root.insert(0, css)
    return ElementTree.tostring(root, encoding="unicode")


def data_uri(svg: str) -> str:
    """For the `src` of an image; holds no character that HTML would have to escape."""
    return f"data:image/svg+xml,{quote(svg, safe=' =:/;,.()+*!?@')}"


def _shorten(element: ElementTree.Element, *, ids: Mapping[str, str]) -> None:
    attributes = element.attrib
    element.text = (element.text or "").strip() if len(element) else element.text
    element.tail = None
    for name in _REFERRING:
        if (target := attributes.pop(name, None)) is not None:
            attributes[name.removeprefix(_XLINK)] = _REFERENCE.sub(lambda match: f"#{ids[match[1]]}", target)
    if (name := attributes.pop("id", "")) in ids:
        attributes["id"] = ids[name]
    if "style" in attributes:
        attributes["style"] = ";".join(_declarations(attributes["style"]))
    if "d" in attributes:
        attributes["d"] = short_path(attributes["d"])
    if (turn := attributes.pop("transform", "rotate(-0 ")) and not turn.startswith("rotate(-0 "):
        attributes["transform"] = _rounded(turn) if turn.startswith("rotate(") else turn
    for name in _PLACES:
        if name in attributes:
            attributes[name] = _rounded(attributes[name])


def _classes(root: ElementTree.Element, *, dark: Mapping[str, str]) -> str:
    """CSS of the styles that stand several times, or have other colours on a dark page; they become classes."""
    styled = [element for element in root.iter() if "style" in element.attrib]
    counts = Counter(element.attrib["style"] for element in styled)
    moved = [style for style, count in counts.items() if count > 1 or any(color in style for color in dark)]
    names = {style: f"c{number}" for number, style in enumerate(moved)}
    for element in styled:
        if element.attrib["style"] in names:
            element.attrib["class"] = names[element.attrib.pop("style")]
    plain = "".join(f".{name}{{{style}}}" for style, name in names.items())
    other = "".join(
        f".{name}{{{declaration.replace(color, instead)}}}"
        for style, name in names.items()
        for declaration in style.split(";")
        for color, instead in dark.items()
        if color in declaration
    )
    return f"{plain}@media (prefers-color-scheme:dark){{{other}}}"


def _declarations(style: str) -> Iterator[str]:
    for declaration in style.split(";"):
        name, _, value = declaration.strip().partition(": ")
        if name and name != _FONT:
            yield f"{name}:{value}"


def short_path(path: str) -> str:
    """`M 1.04 2 L 3.11 2.5` becomes `M1 2l2.1 .5`: rounded absolute points, so that errors do not add up."""
    if not _LINES.fullmatch(path):
        return _rounded(" ".join(path.split()))  # curves
    parts: list[str] = []
    before, last = (0, 0), ""
    for command, x, y in _STEP.findall(path):
        if command == "z":
            parts.append("z")
            last = "z"
            continue
        point = (round(float(x) * 10), round(float(y) * 10))
        if command == "M":
            parts.append(f"M{_tenths(point[0])}{_spaced(point[1])}")
        elif point != before or last == "M":
            step = (point[0] - before[0], point[1] - before[1])
            first = _spaced(step[0]) if last == "L" else f"l{_tenths(step[0])}"
            parts.append(first + _spaced(step[1]))
        else:
            continue
        before, last = point, command
    return "".join(parts)


def _tenths(value: int) -> str:
    text = f"{value / 10:g}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def _spaced(value: int) -> str:
    return _tenths(value) if value < 0 else f" {_tenths(value)}"


def _rounded(text: str) -> str:
    return _NUMBER.sub(lambda match: f"{round(float(match[0]), 1):g}", text)


def _flatten(parent: ElementTree.Element) -> None:
    """Groups without attributes give their children to their parent; what nobody sees goes."""
    children: list[ElementTree.Element] = []
    for child in list(parent):
        _flatten(child)
        is_empty = child.tag == f"{_NAMESPACE}defs" and not len(child)
        if is_empty or child.tag in (f"{_NAMESPACE}metadata", f"{_NAMESPACE}style"):
            continue
        if child.attrib.get("style") == "fill:none" and child.tag == f"{_NAMESPACE}path":
            continue  # neither filled nor drawn: the background of figure and axes
        children += list(child) if child.tag == f"{_NAMESPACE}g" and not child.attrib else [child]
    parent[:] = children
