"""Class lists and retrieval lists of a dataset: JSON files that people write, checked entry by entry."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from limoe.errors import DataError


class ClassList(NamedTuple):
    """Classes of one label space; `label_field` names the label that holds a class id."""

    label_field: str
    ids: list[str]
    names: list[str]
    templates: list[str]


class ListedPicture(NamedTuple):
    """The key of a picture and all captions that are right for it."""

    key: str
    captions: list[str]


def read_classes(path: str, *, label_space: str) -> ClassList:
    """Templates and one label space of a `classes.json`:

    `{"templates": ["a photo of {}"], "label_spaces": {"<name>": {"label_field": "f", "classes": [{"id", "name"}]}}}`.
    Raises `DataError` on anything else.
    """
    content = _read_object(path)
    spaces = content.get("label_spaces")
    space = spaces.get(label_space) if isinstance(spaces, dict) else None
    if not isinstance(space, dict):
        there = ", ".join(spaces) if isinstance(spaces, dict) else "none"
        raise DataError(f"{path} has no label space {label_space!r} under label_spaces; there: {there}")
    place = f"{path}: label_spaces.{label_space}"
    field, classes = space.get("label_field"), space.get("classes")
    if not isinstance(field, str):
        raise DataError(f"{place}.label_field must be the name of a label, got {_short(field)}")
    ids, names = (_column(place, classes, key) for key in ("id", "name"))
    return ClassList(field, ids, names, _templates(path, content.get("templates")))


def read_retrieval(path: str, *, name: str) -> list[ListedPicture]:
    """The list `name` of a `retrieval.json`: `{"<name>": {"images": [{"key", "captions": [...]}]}}`."""
    listed = _read_object(path).get(name)
    images = listed.get("images") if isinstance(listed, dict) else None
    if not isinstance(images, list) or not images or not all(_is_listed_picture(image) for image in images):
        form = '{"images": [{"key": text, "captions": [text, ...]}, ...]}'
        raise DataError(f"{path}: {name} must have the form {form}, got {_short(listed)}")
    return [ListedPicture(image["key"], image["captions"]) for image in images]


def _read_object(path: str) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; set data.root to the folder of the dataset") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold a JSON object, got {_short(content)}")
    return content


def _templates(path: str, templates: Any) -> list[str]:
    if not isinstance(templates, list) or not templates:
        raise DataError(f"{path}: templates must be a list of texts with one {{}} each, got {_short(templates)}")
    for template in templates:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise DataError(f"{path}: templates must be texts with exactly one {{}}, got {_short(template)}")
    return templates


def _column(place: str, classes: Any, key: str) -> list[str]:
    """One field of all classes: texts, not empty, no two alike (equal names could not be told apart)."""
    if not isinstance(classes, list) or not classes:
        raise DataError(f"{place}.classes must be a list of {{id, name}}, got {_short(classes)}")
    values: dict[str, None] = {}
    for number, entry in enumerate(classes):
        value = entry.get(key) if isinstance(entry, dict) else None
        if not isinstance(value, str) or not value.strip() or value in values:
            rule = "a text that is not empty and occurs once"
            raise DataError(f"{place}.classes[{number}].{key} must be {rule}, got {_short(value)}")
        values[value] = None
    return list(values)


def _is_listed_picture(image: Any) -> bool:
    if not isinstance(image, Mapping) or not isinstance(image.get("key"), str):
        return False
    captions = image.get("captions")
    return isinstance(captions, list) and len(captions) > 0 and all(isinstance(text, str) for text in captions)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
