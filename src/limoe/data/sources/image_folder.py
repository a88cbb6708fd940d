"""Image-text pairs in a folder; captions in text files, a table or folder names."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from limoe.data.bad_samples import BadContent, BadSamples
from limoe.data.images.image_files import check_file, read_image
from limoe.data.pairs import Description, StoredPairs
from limoe.data.text.captions import MAX_BYTES, clean_caption, read_caption
from limoe.errors import DataError, require_argument

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


class ImageFolder(StoredPairs):
    """Images (.jpg, .jpeg, .png, .webp) below `root`, sorted by their path, which is also their key.

    `captions` is the source of the texts:
    `txt`: in `NAME.txt` beside `NAME.jpg`, one caption per line.
    `metadata`: in `root`/metadata.csv, .jsonl or .parquet, one row per image with its path in `file_name`, a text or
    list of texts in `caption_column` and labels in `label_columns`; the order is that of the rows.
    `folders`: the first folder below `root` is the class (label `class`), and the captions are the `templates` with its
    name, `_` replaced by a space, in place of `{}`.

    Hidden files and folders are skipped, linked folders not entered. Images without caption and links to files outside
    `root` are left out and counted in `bad`. Raises `DataError` if the folder is missing or holds no pair.
    """

    def __init__(
        self,
        *,
        root: str,
        captions: str,
        caption_column: str = "text",
        label_columns: Sequence[str] = (),
        templates: Sequence[str] = ("a photo of a {}",),
    ) -> None:
        require_argument(captions in _READERS, "captions", " or ".join(_READERS), captions)
        whole = len(templates) > 0 and all(template.count("{}") == 1 for template in templates)
        require_argument(whole, "templates", "texts with one {} each", list(templates))
        self.root = Path(root)
        self.place = root
        self.caption_column = caption_column
        self.label_columns = label_columns
        self.templates = templates
        self.bad = BadSamples()
        if not self.root.is_dir():
            raise DataError(f"no folder {root}; set root to the folder that holds the images")
        self._texts = list(_READERS[captions](self))
        self.require_pairs(f"captions: {captions}")

    def __len__(self) -> int:
        return len(self._texts)

    def describe(self, index: int) -> Description:
        return self._texts[index]

    def image(self, index: int) -> bytes:
        return read_image(self.root, self._texts[index].key)

    def _beside(self) -> Iterator[Description]:
        return self._found(lambda name: Description(_lines(self.root / name), {}, name))

    def _by_folder(self) -> Iterator[Description]:
        def describe(name: str) -> Description:
            folder, slash, _ = name.partition("/")
            if not slash:
                raise BadContent("it is in no class folder", kind="no_class")
            words = clean_caption(folder.replace("_", " "))
            return Description([template.replace("{}", words) for template in self.templates], {"class": folder}, name)

        return self._found(describe)

    def _found(self, describe: Callable[[str], Description]) -> Iterator[Description]:
        """Descriptions of all images in the folder; those without a usable one are counted in `bad`."""
        for name in tqdm(_images(self.root), desc="reading captions", delay=2, leave=False, disable=None):
            try:
                check_file(self.root, name)
                yield describe(name)
            except BadContent as error:
                self.bad.add(error.at(str(self.root), name))

    def _listed(self) -> Iterator[Description]:
        # imported here, since only this kind needs pyarrow
        from limoe.data.sources.table_rows import Columns, usable_rows

        there = [self.root / name for name in _METADATA if (self.root / name).is_file()]
        if len(there) != 1:
            raise DataError(f"{self.root} must hold one of {', '.join(_METADATA)}, and holds {len(there)}")
        columns = Columns(image="file_name", key="file_name", caption=self.caption_column, labels=self.label_columns)
        rows = usable_rows(there, columns=columns, base=self.root, image_root=None, allow_outside=False, bad=self.bad)
        for row in rows:
            try:
                check_file(self.root, row["path"])
                yield Description(row["captions"], dict(row["labels"]), row["path"])
            except BadContent as error:
                self.bad.add(error.at(str(there[0]), row["path"]))


_READERS = {"txt": ImageFolder._beside, "metadata": ImageFolder._listed, "folders": ImageFolder._by_folder}


def _images(root: Path) -> list[str]:
    """Relative paths of all images, sorted."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        place = Path(folder).relative_to(root)
        names = [name for name in files if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
        found += [(place / name).as_posix() for name in names]
    return sorted(found)


def _lines(image: Path) -> list[str]:
    """The captions in the text file beside an image."""
    path = image.with_suffix(".txt")
    if not path.is_file():
        raise BadContent(f"there is no {path.name} beside it", kind="no_caption")
    if path.stat().st_size > MAX_BYTES:
        raise BadContent(f"{path.name} has more than {MAX_BYTES:,} bytes", kind="too_large")
    captions = [read_caption(line) for line in path.read_bytes().splitlines() if line.strip()]
    if not captions:
        raise BadContent(f"{path.name} is empty", kind="no_caption")
    return captions
