"""Captions and labels from bytes or cells: the same rules for all sources.

Text is UTF-8 with or without a byte order mark. Surrounding white space is removed, the rest is unchanged; a caption is
cut after `MAX_CAPTION` characters, far beyond any context length, which limits the cost of a misplaced document.
Everything here raises `BadContent` with one of the kinds `no_caption`, `bad_text`, `bad_json` and `too_large`.
"""

import json
import re
from typing import Any

from limoe.data.bad_samples import BadContent
from limoe.data.pairs import Description

MAX_BYTES = 1 << 24  # of one caption file or json
MAX_CAPTION = 10_000  # characters
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


def read_description(key: str, *, text: bytes | None = None, fields: bytes | None = None) -> Description:
    """Description from `KEY.txt` (`text`) and `KEY.json` (`fields`); captions of the json take precedence,
    and its other text fields are the labels.
    """
    content = {} if fields is None else read_fields(fields)
    captions = captions_of(content)
    if not captions and text is not None:
        captions = [read_caption(text)]
    if not captions:
        raise BadContent("no caption: needs a .txt, or a .json with `caption` or `captions`", kind="no_caption")
    labels = {name: whole(value) for name, value in content.items() if isinstance(value, str) and name != "caption"}
    return Description(captions, labels, key)


def read_caption(data: bytes) -> str:
    """The caption in the bytes of a text file."""
    return clean_caption(_decoded(data))


def read_fields(data: bytes) -> dict[str, Any]:
    """The fields of the JSON object in `data`."""
    try:
        fields = json.loads(_decoded(data))
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadContent):
            raise
        raise BadContent(f"its json cannot be read: {str(error)[:80]}", kind="bad_json") from error
    if not isinstance(fields, dict):
        raise BadContent(f"its json must hold an object, got {type(fields).__name__}", kind="bad_json")
    return fields


def captions_of(fields: dict[str, Any]) -> list[str]:
    """`captions`, a list of texts, or `caption`, one text; empty texts are left out, null counts as absent."""
    captions = fields.get("captions")
    if captions is None:
        captions = [] if fields.get("caption") is None else [fields["caption"]]
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise BadContent(
            f"`captions` must be a list of texts and `caption` a text, got {captions!r:.60}", kind="bad_json"
        )
    return [clean_caption(caption) for caption in captions if caption.strip()]


def clean_caption(text: str) -> str:
    """Strip and cut a caption; raises `BadContent` if it is empty or has a lone surrogate."""
    caption = whole(text.strip()[:MAX_CAPTION]).rstrip()
    if not caption:
        raise BadContent("its caption is empty", kind="no_caption")
    return caption


def _decoded(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise BadContent(f"a text of {len(data):,} bytes, more than {MAX_BYTES:,}", kind="too_large")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadContent(f"its text is not UTF-8 (byte {error.start:,})", kind="bad_text") from error


def whole(text: str) -> str:
    """Refuse a lone surrogate (JSON can contain one), which can be neither tokenized nor written to a log."""
    if _HALF_CHARACTER.search(text):
        raise BadContent("a text with half a character (a lone surrogate)", kind="bad_text")
    return text
