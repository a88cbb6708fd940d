"""Conversion of table rows to rows of the Arrow copy; unusable ones are counted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from limoe.data.bad_samples import BadContent, BadSamples
from limoe.data.images.image_files import inside
from limoe.data.pairs import Description
from limoe.data.sources.table_files import Row, read_rows
from limoe.data.text.captions import captions_of, whole


@dataclass(frozen=True)
class Columns:
    """Names of the columns by purpose. `where`: column -> the values that a row may have, as texts."""

    image: str
    caption: str
    key: str | None = None
    labels: Sequence[str] = ()
    where: dict[str, list[str]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        keys = [] if self.key is None else [self.key]
        return list(dict.fromkeys([self.image, self.caption, *keys, *self.labels, *self.where]))


def usable_rows(
    files: Sequence[Path],
    *,
    columns: Columns,
    base: Path,
    image_root: Path | None,
    allow_outside: bool,
    bad: BadSamples,
) -> Iterator[dict[str, Any]]:
    """The usable rows of `files` (below the folder `base`) in the columns of the Arrow copy; others are added to `bad`.

    Without a key column the key is file and row number. Paths of images are relative to `image_root`; if that is None,
    to the folder of their table, and are returned relative to `base`.
    """
    keys: set[str] = set()
    bar = tqdm(desc="copying rows", unit=" rows", delay=2, leave=False, disable=None)
    for file in files:
        name = file.relative_to(base).as_posix()
        root = file.parent if image_root is None else image_root
        prefix = PurePosixPath(file.parent.relative_to(base)) if image_root is None else PurePosixPath()
        for number, row in read_rows(file, columns.names):
            bar.update()
            key = f"{name}:{number}"
            try:
                if isinstance(row, BadContent):
                    raise row
                if not all(_text(row.get(column)) in values for column, values in columns.where.items()):
                    continue
                key = key_of(row, columns, otherwise=key)
                text = describe_row(row, columns, key=key)
                cell = image_cell(row, columns)
                path = None
                if isinstance(cell, str):
                    path = (prefix / (cell if allow_outside else inside(root, cell))).as_posix()
                if columns.key is not None:
                    add_key(keys, key)
            except BadContent as error:
                bad.add(error.at(str(file), key))
                continue
            image = cell if isinstance(cell, bytes) else None
            labels = list(text.labels.items())
            yield {"key": key, "image": image, "path": path, "captions": text.captions, "labels": labels}
    bar.close()


def key_of(row: Row, columns: Columns, *, otherwise: str) -> str:
    """Key of a row: its key column, or `otherwise` if there is none."""
    if columns.key is None:
        return otherwise
    key = _text(row.get(columns.key))
    if not key or not key.strip():
        raise BadContent(f"its key (column {columns.key}) is empty", kind="no_key")
    return key


def add_key(keys: set[str], key: str) -> None:
    """Add a key; raises `BadContent` if it was added before."""
    if key in keys:
        raise BadContent("its key occurred before; keys must be unique", kind="duplicate_key")
    keys.add(key)


def describe_row(row: Row, columns: Columns, *, key: str) -> Description:
    """Captions and labels of a row. Raises `BadContent`."""
    value = row.get(columns.caption)
    captions = captions_of({"captions": value} if isinstance(value, list) else {"caption": value})
    if not captions:
        raise BadContent(f"its caption (column {columns.caption}) is empty", kind="no_caption")
    labels = {name: text for name in columns.labels if (text := _text(row.get(name))) is not None}
    return Description(captions, labels, key)


def image_cell(row: Row, columns: Columns) -> bytes | str:
    """The bytes or the path of the image.

    Bytes take precedence over a path, which Hugging Face stores beside them as their origin.
    """
    value = row.get(columns.image)
    image, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, value)
    if isinstance(image, bytes) and image:
        return image
    if not isinstance(path, str) or not path.strip():
        rule = "must be bytes, a path, or a struct of bytes and path"
        raise BadContent(f"its image (column {columns.image}) {rule}, got {value!r:.60}", kind="no_image")
    return whole(path)


def _text(value: Any) -> str | None:
    """A cell as text: `1`, `True`, `circle`."""
    if value is None:
        return None
    if not isinstance(value, str | int | float):
        raise BadContent(f"a cell must hold a text or a number, got {value!r:.60}", kind="bad_row")
    return whole(str(value))
