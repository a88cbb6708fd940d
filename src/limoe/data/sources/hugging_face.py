"""Image-text pairs of a Hugging Face dataset, from the hub, its cache, or a folder on disk."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from limoe.data.bad_samples import BadContent, BadSamples
from limoe.data.images.image_files import read_image
from limoe.data.pairs import Description, StoredPairs
from limoe.data.sources.table_files import Row, require_columns
from limoe.data.sources.table_rows import Columns, add_key, describe_row, image_cell, key_of
from limoe.errors import DataError, LimoeError

_BATCH = 1000  # rows per read of the texts
_SAVED = ("state.json", "dataset_dict.json")  # files written by `save_to_disk`


class HuggingFaceDataset(StoredPairs):
    """One split of `path`: a name on the hub, a folder that `save_to_disk` wrote, or one that `load_dataset` reads.

    `name`: the configuration of the dataset, null for its only one. `revision`: a commit, which fixes its content.
    `image_column` holds images, `caption_column` a text or a list of texts, `label_columns` become labels (a class
    label by its name), `key_column` names the pairs (null: the number of the row). `allow_outside`: allow images that
    are neither in the folder nor in the cache of the hub; only for trusted datasets.

    With HF_HUB_OFFLINE=1 nothing is fetched. Code of a dataset is never run, and images are decoded by limoe. All texts
    are read at the start: rows without caption or key, or with a repeated key, are left out and counted in `bad`.
    Raises `DataError` if dataset, split or column is missing, or no row is left.
    """

    def __init__(
        self,
        *,
        path: str,
        split: str,
        image_column: str,
        caption_column: str,
        name: str | None = None,
        label_columns: Sequence[str] = (),
        key_column: str | None = None,
        revision: str | None = None,
        allow_outside: bool = False,
    ) -> None:
        try:
            datasets = importlib.import_module("datasets")
        except ImportError as error:
            raise LimoeError("Hugging Face datasets need the package datasets: pip install datasets") from error
        self.place = f"{path} ({split})"
        self.columns = Columns(image=image_column, caption=caption_column, key=key_column, labels=list(label_columns))
        self.root = Path(path) if Path(path).is_dir() else Path(datasets.config.HF_CACHE_HOME)
        self.allow_outside = allow_outside
        rows = _load(datasets, path, name=name, split=split, revision=revision)
        require_columns(self.place, self.columns.names, there=rows.column_names)
        # Images stay encoded, so that limoe's decoder with its limits reads them.
        self._images = rows.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False))
        self._texts = rows.select_columns([column for column in self.columns.names if column != image_column])
        features = rows.features
        self._class_names = {
            c: features[c].names for c in label_columns if isinstance(features[c], datasets.ClassLabel)
        }
        self.bad = BadSamples()
        self._positions = np.fromiter(self._usable(), dtype=np.int64)
        self.require_pairs(f"captions: column {caption_column}")

    def __len__(self) -> int:
        return len(self._positions)

    def describe(self, index: int) -> Description:
        position = int(self._positions[range(len(self))[index]])
        return self._description(position, self._texts[position])

    def image(self, index: int) -> bytes:
        cell = image_cell(self._images[int(self._positions[index])], self.columns)
        return cell if isinstance(cell, bytes) else read_image(self.root, cell, allow_outside=self.allow_outside)

    def _usable(self) -> Iterator[int]:
        """Positions of the rows with usable texts."""
        seen: set[str] = set()
        bar = tqdm(total=len(self._texts), desc="reading texts", unit=" rows", delay=2, leave=False, disable=None)
        for first in range(0, len(self._texts), _BATCH):
            cells = self._texts[first : first + _BATCH]
            for position, values in enumerate(zip(*cells.values(), strict=True), start=first):
                try:
                    add_key(seen, self._description(position, dict(zip(cells, values, strict=True))).key)
                    yield position
                except BadContent as error:
                    self.bad.add(error.at(self.place, str(position)))
                bar.update()
        bar.close()

    def _description(self, position: int, row: Row) -> Description:
        named = {c: None if row[c] in (None, -1) else names[row[c]] for c, names in self._class_names.items()}
        return describe_row(row | named, self.columns, key=key_of(row, self.columns, otherwise=str(position)))


def _load(datasets: Any, path: str, *, name: str | None, split: str, revision: str | None) -> Any:
    try:
        if any((Path(path) / file).is_file() for file in _SAVED):
            saved = datasets.load_from_disk(path)
            if not isinstance(saved, Mapping) and str(saved.split) != split:
                own = "without a split" if saved.split is None else f"of the split {saved.split}"
                raise DataError(f"{path} holds one dataset {own}, so no {split!r}; save a DatasetDict to have several")
            rows = saved[split] if isinstance(saved, Mapping) else saved
        else:
            rows = datasets.load_dataset(path, name, split=split, revision=revision)
    except DataError:
        raise
    except Exception as error:  # the library raises many kinds: no such dataset, split, configuration; no connection
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError(f"{path} ({split}) cannot be loaded: {reason}; check path, name and split") from error
    return rows.with_format(None)
