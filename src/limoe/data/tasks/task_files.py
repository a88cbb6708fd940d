"""Retrieval lists of a dataset: hand-written JSON files, checked entry by entry."""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from limoe.errors import DataError


class ListedImage(NamedTuple):
    """The key of an image and its captions (positives)."""

    key: str
    captions: list[str]


def read_retrieval(path: str, *, name: str) -> list[ListedImage]:
    """The list `name` of a `retrieval.json`, by image or by text:

    `{"<name>": {"images": [{"key", "captions": [...]}]}}` or `{"<name>": {"texts": [{"text", "image_keys": [...]}]}}`.
    """
    listed = read_object(path).get(name)
    if isinstance(listed, dict) and _all(listed.get("images"), "key", "captions"):
        return [ListedImage(image["key"], image["captions"]) for image in listed["images"]]
    if isinstance(listed, dict) and _all(listed.get("texts"), "text", "image_keys"):
        captions: dict[str, list[str]] = {}  # by image, in the order in which the texts first name the images
        for entry in listed["texts"]:
            for key in entry["image_keys"]:
                captions.setdefault(key, []).append(entry["text"])
        return [ListedImage(key, own) for key, own in captions.items()]
    forms = (
        '{"images": [{"key": text, "captions": [text, ...]}, ...]} or {"texts": [{"text": text, "image_keys": [...]}]}'
    )
    raise DataError(f"{path}: {name} must have the form {forms}, got {listed!r:.60}")


def read_karpathy(path: str, *, split: str) -> list[ListedImage]:
    """One split of a `dataset_coco.json` of Karpathy's form; keys are file names without folder and ending.

    `{"images": [{"filename", "split", "sentences": [{"raw"}, ...]}, ...]}`.
    """
    images = read_object(path).get("images")
    form = '{"images": [{"filename": text, "split": text, "sentences": [{"raw": text}, ...]}, ...]}'
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        raise DataError(f"{path} must have the form {form}, got {images!r:.60}")
    found = []
    for number, image in enumerate(images):
        if image.get("split") == split:
            try:
                captions = [sentence["raw"].strip() for sentence in image["sentences"]]
                found.append(ListedImage(PurePosixPath(image["filename"]).stem, captions))
            except (KeyError, TypeError, AttributeError) as error:
                raise DataError(f"{path}: images[{number}] must have the form {form}, got {image!r:.60}") from error
    if not found:
        there = ", ".join(sorted({str(image.get("split")) for image in images})) or "none"
        raise DataError(f"{path} has no image of split {split!r}; there: {there}")
    return found


def read_object(path: str) -> dict[str, Any]:
    """The object in a JSON file. Raises `DataError` if the file is missing, no JSON, or holds another type."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        hint = "set LIMOE_DATA_DIR to the folder that holds the dataset's folder"
        raise DataError(f"{path} does not exist; {hint}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold a JSON object, got {content!r:.60}")
    return content


def _all(entries: Any, one: str, several: str) -> bool:
    return isinstance(entries, list) and len(entries) > 0 and all(_fits(entry, one, several) for entry in entries)


def _fits(entry: Any, one: str, several: str) -> bool:
    if not isinstance(entry, Mapping) or not isinstance(entry.get(one), str):
        return False
    values = entry.get(several)
    return isinstance(values, list) and len(values) > 0 and all(isinstance(text, str) for text in values)
