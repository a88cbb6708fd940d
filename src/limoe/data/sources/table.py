"""Image-text pairs in parquet, CSV or JSON lines files.

The images are bytes in a column, a struct of bytes and path as Hugging Face writes it, or paths of files. The first
use copies the usable rows into one Arrow file in the cache (`files.cache_path`), which is then read by position. It is
written again when a file or a setting changes, and may be deleted at any time.
"""

import glob
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from limoe.data.bad_samples import BadSample, BadSamples
from limoe.data.images.image_files import read_image
from limoe.data.pairs import Description, StoredPairs
from limoe.data.sources.arrow_copy import open_copy, write_copy
from limoe.data.sources.table_rows import Columns, usable_rows
from limoe.errors import DataError, require_argument
from limoe.files import cache_path, stamp

_VERSION = 2  # of the copy's content


class Table(StoredPairs):
    """The rows of one or several files as pairs, in the order of the files.

    `path`: a file, a pattern such as `train-*.parquet`, or a list of them (.parquet, .csv, .tsv, .jsonl).
    `image_column`: bytes, {bytes, path}, or a path below `image_root` (null: the folder of the file).
    `caption_column`: a text or a list of texts. `label_columns` become the labels of a pair; null is no label.
    `key_column`: names the pairs; null: file and row. `where`: only rows with these values, `{split: train}` or
    `{split: [train, extra]}`. `allow_outside`: allow paths outside `image_root`; only for trusted tables.
    `cache_dir`: folder of the Arrow copy; null: see `cache_path`.

    Rows without a usable image cell, caption or key, or with a repeated key, are left out and counted in `bad`. Raises
    `DataError` for a file that cannot be read, a missing column, and if no row is left.
    """

    def __init__(
        self,
        *,
        path: str | Sequence[str],
        image_column: str,
        caption_column: str,
        label_columns: Sequence[str] = (),
        key_column: str | None = None,
        where: Mapping[str, Any] | None = None,
        image_root: str | None = None,
        allow_outside: bool = False,
        cache_dir: str | None = None,
    ) -> None:
        self.files = _find_files([path] if isinstance(path, str) else path)
        self.columns = Columns(
            image=image_column,
            caption=caption_column,
            key=key_column,
            labels=list(label_columns),
            where={column: _values(value) for column, value in (where or {}).items()},
        )
        self.base = Path(os.path.commonpath([file.parent for file in self.files]))
        self.place = str(self.files[0]) if len(self.files) == 1 else f"{len(self.files)} tables below {self.base}"
        self.image_root = None if image_root is None else Path(image_root)
        self.allow_outside = allow_outside
        self.copy = cache_path(self.files[0], suffix=f".{self._digest()}.arrow", cache_dir=cache_dir)
        copy = open_copy(self.copy)
        if copy is None or copy.note.get("files") != [stamp(file) for file in self.files]:
            bad = BadSamples()
            stamps = [stamp(file) for file in self.files]  # taken before the files are read
            rows = usable_rows(
                self.files,
                columns=self.columns,
                base=self.base,
                image_root=self.image_root,
                allow_outside=allow_outside,
                bad=bad,
            )
            write_copy(self.copy, rows, note=lambda: {"files": stamps, "bad": bad.counts, "first_bad": bad.first})
            copy = open_copy(self.copy)
        assert copy is not None
        self._copied = copy
        first_bad = [BadSample(*sample) for sample in copy.note["first_bad"]]
        self.bad = BadSamples(Counter(copy.note["bad"]), first_bad)
        self.require_pairs(f"where: {self.columns.where}")

    def __len__(self) -> int:
        return len(self._copied.rows)

    def describe(self, index: int) -> Description:
        captions, labels, key = (self._cell(index, name) for name in ("captions", "labels", "key"))
        return Description(captions, dict(labels), key)

    def image(self, index: int) -> bytes:
        image = self._cell(index, "image")
        if image is not None:
            return image
        root = self.base if self.image_root is None else self.image_root
        return read_image(root, self._cell(index, "path"), allow_outside=self.allow_outside)

    def _cell(self, index: int, name: str) -> Any:
        return self._copied.rows.column(name)[range(len(self))[index]].as_py()

    def _digest(self) -> str:
        files = [str(file) for file in self.files]
        settings = [_VERSION, asdict(self.columns), str(self.image_root), self.allow_outside, files]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]


def _find_files(patterns: Sequence[str]) -> list[Path]:
    """The files of all patterns; those of one pattern sorted."""
    files = []
    for pattern in patterns:
        found = [Path(pattern)] if Path(pattern).is_file() else sorted(map(Path, glob.glob(pattern, recursive=True)))
        if not found:
            raise DataError(f"no table {pattern}; set its path, or LIMOE_DATA_DIR to the folder that holds the dataset")
        files += [file.resolve() for file in found]
    require_argument(len(set(files)) == len(files) > 0, "path", "at least one file, each once", list(patterns))
    return files


def _values(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]
